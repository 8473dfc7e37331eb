"""What the scripts share: command line, loop, folder of a run, curves, records as JSON."""
