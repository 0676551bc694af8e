"""Writes an OCI bundle that runs an image as Kubernetes would by our manifests: the image's user, variables and folder, no
capabilities, no way to gain any, and a root that is read-only.

Reads what `buildah inspect` says of the image from standard input.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--root", required=True)
    arguments.add_argument("--mount", action="append", default=[], help="SOURCE:DESTINATION:ro|rw")
    arguments.add_argument("command", nargs="*", help="instead of the image's own")
    asked = arguments.parse_args()
    image = json.load(sys.stdin)["Docker"]["config"]
    asked.bundle.mkdir(parents=True, exist_ok=True)
    (asked.bundle / "config.json").unlink(missing_ok=True)
    subprocess.run(["runc", "spec", "--bundle", asked.bundle], check=True)
    bundle = json.loads((asked.bundle / "config.json").read_text())
    uid, gid = (int(part) for part in image["User"].split(":"))
    bundle["process"] |= {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": image["Entrypoint"] + (asked.command or image["Cmd"]),
        "env": image["Env"],
        "cwd": image["WorkingDir"],
        "capabilities": {},
        "noNewPrivileges": True,
    }
    bundle["root"] = {"path": asked.root, "readonly": True}
    bundle["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]})
    for mount in asked.mount:
        source, destination, mode = mount.split(":")
        options = ["bind", "nosuid", "nodev", mode]
        bundle["mounts"].append({"destination": destination, "type": "bind", "source": source, "options": options})
    (asked.bundle / "config.json").write_text(json.dumps(bundle, indent=1))


if __name__ == "__main__":
    main()
