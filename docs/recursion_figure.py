"""The figure of how_it_works.md: two steps of training, and the tangent that goes along.

python docs/recursion_figure.py      # writes docs/recursion.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRAINING, TANGENT, TUNING = "#0072B2", "#D55E00", "#009E73"  # told apart by the colour-blind, too
matplotlib.rcParams.update({"svg.hashsalt": "recursion", "mathtext.fontset": "cm", "font.size": 12})


def box(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    """A box around text."""
    axes.text(
        x, y, text, ha="center", va="center", color="black", zorder=3,
        bbox={"boxstyle": "round,pad=0.45", "fc": "white", "ec": colour, "lw": 1.8},
    )  # fmt: skip


def arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0
) -> None:
    """An arrow from box to box."""
    axes.annotate(
        "", xy=end, xytext=start, zorder=2,
        arrowprops={
            "arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 20, "shrinkB": 20,
            "connectionstyle": f"arc3,rad={bend}",
        },
    )  # fmt: skip


def step(axes: Any, x: float, t: str, after: str) -> None:
    """One step, its boxes around ``x``."""
    box(axes, x, 3, rf"$\Phi(u_{{{t}}}, \eta_{{{t}}})$", TRAINING)
    box(axes, x, 2, rf"$A_{{{t}}}\,(\mu\, Z_{{{t}}}) + B_{{{t}}}$", TANGENT)
    box(axes, x, 4, rf"batch: $g_{{{t}}},\; H_{{{t}}} Z_{{{t}}}$", TRAINING)
    arrow(axes, (x, 4), (x, 3), TRAINING)
    arrow(axes, (x, 4), (x, 2), TANGENT, bend=-0.8)
    box(axes, x + 2.1, 3, rf"$u_{{{after}}}$", TRAINING)
    box(axes, x + 2.1, 2, rf"$Z_{{{after}}}$", TANGENT)
    arrow(axes, (x + 0.45, 3), (x + 2.1, 3), TRAINING)
    arrow(axes, (x + 0.7, 2), (x + 2.1, 2), TANGENT)
    box(axes, x + 2.1, 1, rf"$h=\langle\nabla E(w_{{{after}}}),\, Z_{{{after}}}\rangle$", TUNING)
    arrow(axes, (x + 2.1, 2), (x + 2.1, 1), TUNING)
    arrow(axes, (x + 2.1, 3), (x + 2.1, 1), TUNING, bend=-0.5)


def draw() -> None:
    """Write the figure beside this file."""
    figure, axes = plt.subplots(figsize=(10, 4.3), layout="constrained")
    box(axes, -2.0, 3, "$u_t$", TRAINING)
    box(axes, -2.0, 2, "$Z_t$", TANGENT)
    arrow(axes, (-2.0, 3), (-0.4, 3), TRAINING)
    arrow(axes, (-2.0, 2), (-0.7, 2), TANGENT)
    step(axes, 0.0, "t", "t+1")
    arrow(axes, (2.1, 3), (3.85, 3), TRAINING)
    arrow(axes, (2.1, 2), (3.5, 2), TANGENT)
    step(axes, 4.4, "t+1", "t+2")
    box(axes, 4.3, 1, r"rule: $\eta_{t+1}$", TUNING)
    arrow(axes, (2.9, 1), (4.0, 1), TUNING)
    arrow(axes, (4.3, 1), (4.4, 3), TUNING, bend=-0.35)
    for y, text, colour in (
        (3, "training", TRAINING), (2, "its tangent", TANGENT), (1, "tuning", TUNING),
    ):  # fmt: skip
        axes.text(-3.5, y, text, color=colour, va="center", ha="left", fontsize=13)
    axes.set(xlim=(-3.6, 7.9), ylim=(0.5, 4.5))
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("recursion.svg"), metadata={"Date": None})


if __name__ == "__main__":
    draw()
