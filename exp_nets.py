import sys, time
sys.path.insert(0, "tests")
import tempfile, torch
from pathlib import Path
from zoo_onnx import network
from zoo import Plugins
from zoo.networks.building import build_network
p = Plugins()
def timed(label, f):
    t=time.process_time(); r=f(); print(f"{label:40} {time.process_time()-t:.2f}"); return r
for n, s in (("timm/test_efficientnet", 32), ("timm/test_efficientnet", 32), ("timm/test_resnet", 32), ("timm/test_vit", 160), ("timm/test_convnext", 32), ("timm/test_byobnet", 32), ("timm/test_nfnet", 32), ("timm/test_mambaout",32), ("torchvision/squeezenet1_1", 32), ("torchvision/mobilenet_v3_small", 32)):
    try:
        m = build_network(p.backbones.find(n).value, classes=3, image_size=s).model.eval()
        timed(n + f" {sum(x.numel() for x in m.parameters())}", lambda: network._by_torch_export(m, s))
    except Exception as e: print(n, repr(e)[:200])
