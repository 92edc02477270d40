"""A runtime: the network of a packed file, from pixels to logits."""

import onnx
import onnxruntime

from zoo import ZooError
from zoo.runtime import Input
from zoo_acme.packed import unpacked


def load(work):
    if work.with_preprocess:
        raise ZooError("`packed-cpu` times the network alone", hint="leave `--with-preprocess` out")
    return Session(work)


class Session:
    notes = ("unpacked before it is timed",)

    def __init__(self, work):
        with unpacked(work.target) as plain:
            # an exported file names the tensors where its network begins and ends
            network = onnx.utils.Extractor(onnx.load(plain)).extract_model(["pixels"], ["logits"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = work.threads
        self.session = onnxruntime.InferenceSession(
            network.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def provider(self):
        return ", ".join(self.session.get_providers())

    @property
    def input(self):
        return Input(dtype="float32", shape=tuple(self.session.get_inputs()[0].shape[1:]))

    def prepare(self, batch):
        return lambda: self.session.run(["logits"], {"pixels": batch})
