"""Renders deploy/ as kubectl would apply it and checks what comes of it; called by tests/deploy/run.

Nothing here needs a cluster or the network. Every fault is told before the end; the exit code is 0 or 1.
"""

import argparse
import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import kubernetes_validate
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

import rules
import spoiled
from rules import ROOT, Deployed

# The oldest Kubernetes that docs/deploy.md supports, and the newest whose schemas are available.
KUBERNETES = ["1.30", "1.37"]
# At most one of these.
CREDENTIALS = [[], ["workload-identity"], ["certificate"]]
# Each alone and combined. Alerts and dashboard depend on no other and conflict with none, so they count as one; so do the
# collector and the secrets, of which one adds a way out and the other a volume.
OTHERS = [["collector", "secrets"], ["prometheus"], ["alerts", "dashboard"]]
# Not part of Kubernetes: there is no schema, but the rules check the fields that we use.
FOREIGN = {"PodMonitor", "PrometheusRule"}


def run(*command, **more):
    """A command's end, whatever it is, with all that it said."""
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)


def said(what, ended):
    return f"{what}: exit code {ended.returncode}\n{ended.stdout.rstrip()}"


def read(text):
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def combinations():
    """Every overlay with every choice of components that fit each other, by name."""
    for overlay in sorted(path.name for path in (ROOT / "deploy/k8s/overlays").iterdir()):
        for credential in CREDENTIALS:
            for count in range(len(OTHERS) + 1):
                for others in itertools.combinations(OTHERS, count):
                    components = [*credential, *itertools.chain(*others)]
                    yield "+".join([overlay, *components]), overlay, components


class Checks:
    def __init__(self, tools, postern, work):
        self.kubectl, self.hadolint = str(tools / "kubectl"), str(tools / "hadolint")
        self.tools, self.postern, self.work = tools, postern, work
        self.rendered = work / "rendered"
        self.faults, self.valid = [], set()

    def fault(self, where, what):
        self.faults.append(f"{where}: {what}")

    def render(self, name, folder):
        """What `kubectl apply -k` would send; kept for lint.py and for whoever wants to read it."""
        ended = subprocess.run([self.kubectl, "kustomize", folder], text=True, capture_output=True, check=False)
        if ended.returncode != 0 or ended.stderr:
            self.fault(name, f"does not render as it is: {ended.stderr.strip()}")
            return None
        (self.rendered / f"{name}.yaml").write_text(ended.stdout)
        return ended.stdout

    def overlay(self, name, overlay, components):
        """An overlay with components, as an operator's own kustomization would put them together."""
        folder = self.work / "combined" / name
        folder.mkdir(parents=True)
        above = os.path.relpath(ROOT / "deploy/k8s", folder)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{above}/overlays/{overlay}"],
            "components": [f"{above}/components/{component}" for component in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return self.render(name, folder)

    def examine(self, name, text):
        objects = read(text)
        # Most objects are the same in all combinations.
        ours = [one for one in objects if one["kind"] not in FOREIGN]
        for one, version in itertools.product(ours, KUBERNETES):
            seen = (version, json.dumps(one))
            if seen not in self.valid:
                try:
                    kubernetes_validate.validate(one, version, strict=True)
                    self.valid.add(seen)
                except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                    self.fault(name, f"{one.get('kind')}, Kubernetes {version}: {error}")
        for fault in rules.faults(objects):
            self.fault(name, fault)
        self.settings(name, Deployed(objects))

    def settings(self, name, of):
        """`postern check` on what the pod would see, with files in place of the secrets that an operator makes."""
        ended = self.check_pod(name, of)
        if ended.returncode != 0:
            self.fault(name, said("postern check", ended))

    def check_pod(self, name, of):
        pod = self.work / "pods" / name
        fill(pod, of)
        moved = str(pod)
        variables = {key: moved + value if value.startswith("/") else value for key, value in of.variables.items()}
        settings = Path(variables["POSTERN_CONFIG"])
        settings.write_text(re.sub(r'"(/[^"]*)"', rf'"{moved}\1"', settings.read_text()))
        if of.template["metadata"]["labels"].get("azure.workload.identity/use") == "true":
            variables |= webhook(pod)
        return run(self.postern, "check", env=variables, cwd=pod)

    def policies(self):
        """Kustomize takes files by name only, so that one that is added could be forgotten."""
        there = {path.name for path in (ROOT / "config/policies").iterdir()}
        listed = yaml.safe_load((ROOT / "config/kustomization.yaml").read_text())["configMapGenerator"][0]["files"]
        if {Path(path).name for path in listed} != there:
            self.fault("config/kustomization.yaml", f"lists {sorted(listed)}, there are {sorted(there)}")

    def document(self):
        """The blocks of docs/deploy.md that are marked `sh`, in one shell, in a copy of what they use."""
        copy = self.work / "clone"
        for folder in ("deploy/k8s", "config"):
            shutil.copytree(ROOT / folder, copy / folder)
        blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE | re.DOTALL)
        path = os.pathsep.join([str(self.tools), str(self.postern.parent), os.environ["PATH"]])
        ended = run("bash", "-euo", "pipefail", "-c", "\n".join(blocks), cwd=copy, env=os.environ | {"PATH": path})
        if len(blocks) < 3 or ended.returncode != 0:
            self.fault("docs/deploy.md", said(f"{len(blocks)} blocks", ended))
            return
        text = (copy / "postern.yaml").read_text()
        (self.rendered / "document.yaml").write_text(text)
        self.examine("document", text)

    def dockerfile(self):
        ended = run(self.hadolint, "--no-color", str(ROOT / "Dockerfile"))
        if ended.returncode != 0:
            self.fault("Dockerfile", said("hadolint", ended))
        if f"\nARG VERSION={rules.VERSION}\n" not in (ROOT / "Dockerfile").read_text():
            self.fault("Dockerfile", f"its version is not {rules.VERSION}")

    def spoiled(self, text):
        """That these checks can fail, each of them."""
        objects = read(text)
        missed, count = spoiled.unnoticed(lambda: copy.deepcopy(objects))
        for one in missed:
            self.fault("spoiled", one)
        return count + self.spoiled_beyond_rules(Deployed(objects))

    def spoiled_beyond_rules(self, of):
        """The schemas know a misspelt field, `postern check` a misspelt setting and a file that no volume brings."""
        of.pod["terminationGraceSeconds"] = 1
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(of.one("Deployment"), version, strict=True)
                self.fault("spoiled", f"the schemas of Kubernetes {version} do not notice a misspelt field")
            except kubernetes_validate.ValidationError:
                pass
        of.container["env"].append({"name": "POSTERN__GRAPH__WRITE_MAX", "value": "1"})
        of.container["volumeMounts"] = [one for one in of.container["volumeMounts"] if one["name"] != "database"]
        ended = self.check_pod("spoiled", of)
        if ended.returncode != 1 or "2 faults" not in ended.stdout:
            self.fault("spoiled", said("postern check notices other than 2 faults", ended))
        return len(KUBERNETES) + 2


def fill(pod, of):
    """The files that the volumes of a pod bring, below a folder of ours."""
    maps = {one["metadata"]["name"]: one["data"] for one in of.all("ConfigMap")}
    volumes = {volume["name"]: volume for volume in of.pod["volumes"]}
    for mount in of.container["volumeMounts"]:
        volume, place = volumes[mount["name"]], pod / mount["mountPath"].lstrip("/")
        files = {}
        if "configMap" in volume:
            files = maps[volume["configMap"]["name"]]
        elif "secret" in volume:
            files = {item["path"]: secret(item["key"]) for item in volume["secret"]["items"]}
        if "subPath" in mount:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(files[mount["subPath"]])
            continue
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_text(content)


def webhook(pod):
    """What Azure's workload identity webhook adds to a pod with its label."""
    token = pod / "var/run/secrets/azure/tokens/azure-identity-token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text("token")
    return {
        "AZURE_TENANT_ID": "00000000-0000-0000-0000-000000000000",
        "AZURE_FEDERATED_TOKEN_FILE": str(token),
        "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/",
    }


def secret(key):
    """Something of the kind that the key is to hold."""
    return {"tls.crt": CERTIFICATE, "tls.key": KEY, "audit.key": AUDIT_KEY}.get(key, "secret")


def certificate():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "postern")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode(), private(key)


def private(key):
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, open_).decode()


CERTIFICATE, KEY = certificate()
AUDIT_KEY = private(ed25519.Ed25519PrivateKey.generate())


def main():
    arguments = argparse.ArgumentParser()
    for name in ("tools", "postern", "work"):
        arguments.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    asked = arguments.parse_args()
    if not asked.postern.exists():
        sys.exit(f"tests/deploy: {asked.postern} is missing; tests/run or cargo build makes it")
    began = time.monotonic()
    for folder in ("rendered", "combined", "pods", "clone"):
        shutil.rmtree(asked.work / folder, ignore_errors=True)
    (asked.work / "rendered").mkdir(parents=True)
    checks = Checks(asked.tools, asked.postern, asked.work)
    names = []
    for name, overlay, components in combinations():
        names.append(name)
        text = checks.overlay(name, overlay, components)
        if text:
            checks.examine(name, text)
    checks.policies()
    checks.document()
    checks.dockerfile()
    spoilt = checks.spoiled((checks.rendered / "ha+prometheus+alerts+dashboard.yaml").read_text())
    for fault in checks.faults:
        print(fault)
    took = time.monotonic() - began
    told = f"{len(names)} combinations, docs/deploy.md and the Dockerfile; {spoilt} spoiled ones"
    print(f"deploy: {len(checks.faults)} faults in {told}, in {took:.0f} s")
    sys.exit(bool(checks.faults))


if __name__ == "__main__":
    main()
