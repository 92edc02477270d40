import sys, time, functools
sys.path.insert(0, "tests"); sys.path.insert(0, "tests/exporters")
sys.path.insert(0, "tests/packages/backbone-zoo-acme")
from pathlib import Path
import tempfile, torch
from small_export import small_spec, SmallNet
from zoo_onnx.write import write
from zoo_onnx import network
from zoo import Plugins
from zoo.networks.building import build_network
tmp = Path(tempfile.mkdtemp())
def timed(label, f):
    t=time.process_time(); r=f(); print(f"{label:30} {time.process_time()-t:.2f}"); return r
timed("first small write", lambda: write(small_spec(tmp/"a.onnx")))
timed("small write", lambda: write(small_spec(tmp/"b.onnx")))
timed("small _by_torch_export", lambda: network._by_torch_export(SmallNet().eval(), 32))
import zoo_acme.network
p = Plugins()
from zoo_acme.network import build
from zoo import BuildSpec
row = p.backbones.find("timm/test_resnet").value
res = build_network(row, classes=3, image_size=32).model.eval()
timed("resnet torch export", lambda: network._by_torch_export(res, 32))
import inspect
class T(torch.nn.Module):
    def __init__(s):
        super().__init__(); s.a=torch.nn.Conv2d(3,8,3,2); s.b=torch.nn.BatchNorm2d(8); s.h=torch.nn.Linear(8,3)
    def forward(s,x): return s.h(torch.relu(s.b(s.a(x))).mean((2,3)))
timed("tiny torch export", lambda: network._by_torch_export(T().eval(), 32))
import onnxscript._framework_apis.torch_2_5 as fw
import torch.onnx._internal.exporter._registration as reg
timed("from_torchlib", lambda: reg.ONNXRegistry.from_torchlib(opset_version=18))
timed("from_torchlib", lambda: reg.ONNXRegistry.from_torchlib(opset_version=18))
timed("torchlib ops", lambda: fw.get_torchlib_ops())
print(inspect.getsource(reg.ONNXRegistry.from_torchlib))
import cProfile, pstats
pr=cProfile.Profile(); pr.enable(); network._by_torch_export(T().eval(), 32); pr.disable()
pstats.Stats(pr).sort_stats("cumtime").print_stats(50)
