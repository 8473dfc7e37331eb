"""LeNet-5: two 5 x 5 convolutions, each with ReLU and max-pooling by 2, then 120-84-num_classes.

Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
recognition", with ReLU and max-pooling for its sigmoids and trained subsampling, as is usual since.
"""

from torch import Tensor, nn

from adatune_func.networks.init import initialize


class LeNet(nn.Module):
    """(N, in_channels, image_size, image_size) -> (N, num_classes) logits.

    `channels` of the two convolutions: (20, 50) for grayscale and (6, 16) for colour unless given.
    Nothing is padded, so 28 x 28 images reach the linear layers as 4 x 4 and 32 x 32 as 5 x 5.

    Raises ValueError when `image_size` is too small for two unpadded convolutions.
    """

    def __init__(
        self,
        channels: tuple[int, int] | None = None,
        hidden: tuple[int, int] = (120, 84),
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        pooled = ((image_size - 4) // 2 - 4) // 2
        if pooled < 1:
            raise ValueError(
                f"LeNet needs images of at least 16 x 16 pixels, not {image_size} x {image_size}"
            )
        first, second = channels or ((20, 50) if in_channels == 1 else (6, 16))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(second * pooled**2, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], num_classes),
        )
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
