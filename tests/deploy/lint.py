"""Asks checkov about every rendering and the Dockerfile; called by tests/deploy/run --lint.

What it finds and we leave stands below with its reason. A reason for what it does not find any more is a fault, too.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

LEFT = {
    "CKV_K8S_11": "CPU limits: the kernel would stop a gateway in the middle of a lease though the node is idle; the "
    "request bounds its share where it is not, and memory is limited",
    "CKV_K8S_43": "Image by digest: there is none before somebody builds the image; docs/deploy.md names it by digest",
    "CKV_K8S_15": "Pull policy Always: an image named by digest or by the tag of a release does not change, and a "
    "registry that is down must not keep a replica from starting",
}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--checkov", required=True)
    arguments.add_argument("--rendered", type=Path, required=True)
    asked = arguments.parse_args()
    shutil.copy(Path(__file__).resolve().parents[2] / "Dockerfile", asked.rendered / "Dockerfile")
    command = [asked.checkov, "--directory", asked.rendered, "--framework", "kubernetes", "dockerfile"]
    ended = subprocess.run([*command, "--skip-download", "--output", "json"], text=True, capture_output=True, check=False)
    if ended.returncode not in (0, 1) or not ended.stdout.startswith(("[", "{")):
        sys.exit(f"checkov failed: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
    reports = json.loads(ended.stdout)
    reports = reports if isinstance(reports, list) else [reports]
    passed = sum(report["summary"]["passed"] for report in reports)
    faults, left = [], set()
    for report in reports:
        if report["summary"]["parsing_errors"]:
            faults.append(f"checkov cannot read {report['results']['parsing_errors']}")
        for failed in report["results"]["failed_checks"]:
            check = failed["check_id"]
            left.add(check)
            if check not in LEFT:
                faults.append(f"{failed['file_path']}: {check}: {failed['check_name']} ({failed['resource']})")
    faults += [f"{check} is not found any more; take its reason out" for check in sorted(set(LEFT) - left)]
    faults += [] if {report["check_type"] for report in reports} == {"kubernetes", "dockerfile"} else ["not all was read"]
    for fault in faults:
        print(fault)
    print(f"checkov: {len(faults)} faults; {passed} checks passed, {len(left)} kinds of findings left, each with a reason")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
