"""A real Triton with a Python function in the place of the network, until stdin ends.

    python triton_server.py HTTP-PORT GRPC-PORT

Runs where `nvidia-pytriton` is installed. Its `tritonserver` has known security faults: for tests
on loopback only.
"""

from __future__ import annotations

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def infer(photographs: np.ndarray) -> dict[str, np.ndarray]:
    mean = photographs.reshape(len(photographs), -1).mean(1, dtype=np.float32)
    return {"logits": np.stack([mean, -mean], 1)}


def main() -> None:
    http, grpc = map(int, sys.argv[1:])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http,
        grpc_address="127.0.0.1",
        grpc_port=grpc,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name="photographs", dtype=np.uint8, shape=(-1, -1, 3))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(2,))],
            config=ModelConfig(max_batch_size=32),
        )
        triton.run()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
