"""The S3 source against moto, a stand-in for S3 that others keep: the same bytes, digests and rows as a folder.

    pip install 'moto[s3]' flask flask-cors boto3
    python benchmarks/object_store.py [--server PYTHON] [--images 200]

`tests/plugins/test_stores.py` has the failures, on a small stand-in of its own. moto weighs 140 MB with what it needs,
so it is no dependency of the tests; `--server` names a Python that has it. No real bucket was reached from here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path
from time import process_time, sleep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tests_support import TINY, make_photos

from zoo import ZooError, train
from zoo.data.opening import open_images, open_unlabelled
from zoo.dataset import BytesSource
from zoo.plugin import Plugins
from zoo.storage.files import json_text

SERVER = """
import sys, threading, boto3
from pathlib import Path
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
client.create_bucket(Bucket="bucket")
client.create_bucket(Bucket="empty")
root = Path(sys.argv[1])
for file in root.rglob("*"):
    if file.is_file():
        client.put_object(Bucket="bucket", Key=file.relative_to(root).as_posix(), Body=file.read_bytes())
print(url, flush=True)
threading.Event().wait()
"""


def said(data: str) -> str:
    """What is said of data that cannot be opened."""
    try:
        open_images(data, 0, Plugins())
    except ZooError as error:
        return str(error).replace("\n\n", "; ")
    return "opened"


def main() -> None:
    """Run the comparison, and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=sys.executable, help="the Python that has moto")
    parser.add_argument("--images", type=int, default=200, help="images of each class")
    options = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with tempfile.TemporaryDirectory() as place:
        photos = make_photos(Path(place) / "root/photos", {"train": options.images, "val": options.images // 4})
        names = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
        rows = "".join(f"{name},{name.split('/')[1]},{name.split('/')[0]}\n" for name in names)
        (photos / "t.csv").write_text(f"path,label,split\n{rows}")
        (photos / "red é.txt").write_text("a key with a space and an accent")
        server = subprocess.Popen(
            [options.server, "-c", SERVER, str(photos.parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = next(line.strip() for line in server.stdout if line.startswith("http"))
            os.environ["AWS_ENDPOINT_URL"] = url
            found: dict[str, object] = {"images": len(names)}
            folder = open_images(str(photos), 0, Plugins())
            runs = {}
            for name, data in (
                ("folder", str(photos)),
                ("s3", "s3://bucket/photos"),
                ("csv on s3", "csv:s3://bucket/photos/t.csv"),
                ("csv here", f"csv:{photos}/t.csv,root=s3://bucket/photos"),
            ):
                assert open_images(data, 0, Plugins()).splits == folder.splits, data
                began = process_time()
                for sample in open_unlabelled(data, Plugins()).samples:
                    if isinstance(sample.source, BytesSource) or name == "s3":
                        opened = sample.source.open()
                        assert opened.read() == (photos / sample.id).read_bytes(), sample.id  # type: ignore[union-attr]
                found[f"processor seconds, {name}, read once"] = round(process_time() - began, 2)
                run = train(replace(TINY, data=data, epochs=1, cache="off"), out=Path(place) / name.replace(" ", "-"))
                runs[name] = (run.record["data"], run.record["weights_sha256"])
            found["the same digests and weights"] = len({json_text(one) for one in runs.values()}) == 1
            for data in ("s3://empty", "s3://none/photos", "s3://bucket/none", "csv:s3://bucket/none.csv"):
                found[data] = said(data)
            strict = urllib.request.Request(
                f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
            )
            urllib.request.urlopen(strict).close()  # from now on moto asks for credentials that it knows
            sleep(0.1)
            found["refused (403)"] = said("s3://bucket/photos")
            print(json_text(found, indent=2))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
