"""A callback. It runs in a process of its own, beside training."""

from pathlib import Path

from zoo.callback import EpochEnded, Evaluated, RunEnded, RunStarted


class Diary:
    """Writes a line for each run that ends: name, status, epochs, accuracy."""

    def __init__(self, file):
        self.file = Path(file)
        self.epochs, self.accuracy = 0, None

    def __call__(self, event):
        match event:
            case RunStarted():
                self.name, self.epochs = event.name, event.kept.get("epochs", 0)
            case EpochEnded():
                self.epochs = event.number
                return {"epochs": self.epochs}  # kept, and given back where the run is resumed
            case Evaluated():
                self.accuracy = event.metrics["accuracy"]
            case RunEnded():
                with self.file.open("a") as lines:
                    lines.write(f"{self.name},{event.status},{self.epochs},{self.accuracy}\n")
        return None
