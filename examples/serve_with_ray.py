"""Serves an exported file with Ray Serve: `MODEL=/models/model.onnx serve run serve_with_ray:application`."""

import os

from ray import serve

from zoo.serving.asgi import app

FILE = os.environ.get("MODEL", "/models/model.onnx")  # at the same path on every machine
CORES = 1  # of a replica: what Ray reserves, and the number of threads that decode and classify
replica = serve.ingress(lambda: app(FILE, workers=CORES))()
application = serve.deployment(replica, num_replicas=1, ray_actor_options={"num_cpus": CORES}).bind()
