"""The catalogue of built-in runtimes: torch, onnxruntime, OpenVINO and onnxruntime-web. Imports none of them."""

from __future__ import annotations

from zoo.runtime import DEVICES, Runtime

RUNTIMES = (
    Runtime(
        name="torch-eager",
        summary="PyTorch in eager mode, in the faster of two memory layouts",
        accepts="run",
        devices=DEVICES,
        available="zoo_runtimes.availability:torch_eager",
        load="zoo_runtimes.torch:load_eager",
    ),
    Runtime(
        name="torch-compiled",
        summary="PyTorch with torch.compile, compiled for each batch size",
        accepts="run",
        devices=DEVICES,
        available="zoo_runtimes.availability:torch_compiled",
        load="zoo_runtimes.torch:load_compiled",
    ),
    Runtime(
        name="onnxruntime-cpu",
        summary="onnxruntime's CPU provider",
        accepts="onnx",
        devices=("cpu",),
        available="zoo_runtimes.availability:onnxruntime_cpu",
        load="zoo_runtimes.onnxruntime:load_cpu",
        open="zoo_onnx.session:open_file",
    ),
    Runtime(
        name="onnxruntime-cuda",
        summary="onnxruntime's CUDA provider",
        accepts="onnx",
        devices=("cuda",),
        available="zoo_runtimes.availability:onnxruntime_cuda",
        load="zoo_runtimes.onnxruntime:load_cuda",
        open="zoo_onnx.session:open_file",
    ),
    Runtime(
        name="onnxruntime-tensorrt",
        summary="onnxruntime's TensorRT provider, with CUDA for nodes that it does not support",
        accepts="onnx",
        devices=("cuda",),
        available="zoo_runtimes.availability:onnxruntime_tensorrt",
        load="zoo_runtimes.onnxruntime:load_tensorrt",
    ),
    Runtime(
        name="onnxruntime-web",
        summary="onnxruntime in WebAssembly, as in a browser, under node (`npm install onnxruntime-web`)",
        accepts="onnx",
        devices=("cpu",),
        available="zoo_runtimes.availability:onnxruntime_web",
        load="zoo_runtimes.onnxruntime_web:load_web",
        open="zoo_runtimes.onnxruntime_web:open_web",
        by_default=False,
    ),
    Runtime(
        name="openvino",
        summary="OpenVINO on the CPU, for the network of an ONNX file (extra `openvino`)",
        accepts="onnx",
        devices=("cpu",),
        available="zoo_runtimes.availability:openvino",
        load="zoo_runtimes.openvino:load_onnx",
        open="zoo_runtimes.openvino:open_onnx",
    ),
    Runtime(
        name="openvino-ir",
        summary="OpenVINO on the CPU, for a file in OpenVINO's own format (extra `openvino`)",
        accepts="openvino",
        devices=("cpu",),
        available="zoo_runtimes.availability:openvino",
        load="zoo_runtimes.openvino:load_ir",
        open="zoo_openvino.model:open_file",
    ),
)
