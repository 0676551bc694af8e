"""What must hold of every rendering, beyond what Kubernetes' schemas say.

Each rule takes what is deployed and yields a sentence for each fault. spoiled.py shows of each that it can fail.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
NAME = "app.kubernetes.io/"
LABELS = {
    f"{NAME}name": "postern",
    f"{NAME}instance": "postern",
    f"{NAME}version": VERSION,
    f"{NAME}component": "gateway",
    f"{NAME}part-of": "postern",
    f"{NAME}managed-by": "kustomize",
}
# Time between the stop deadline and the kill: closing the store, sending the last spans.
STOP_MARGIN = 10
SEVERITIES = {"critical", "warning", "info"}
VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
PUBLIC = {"0.0.0.0/0", "::/0"}
INSIDE = {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"}


def default(key):
    """A setting's default, from the commented reference."""
    found = re.search(rf'^#{key} = "?([^"\n]+)"?$', (ROOT / "config/gateway.toml").read_text(), re.MULTILINE)
    return found[1]


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


@dataclass
class Deployed:
    """The objects of one rendering, and the parts that rules ask for."""

    objects: list

    def all(self, kind):
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind):
        (found,) = self.all(kind)
        return found

    @property
    def deployment(self):
        return self.one("Deployment")["spec"]

    @property
    def template(self):
        return self.deployment["template"]

    @property
    def pod(self):
        return self.template["spec"]

    @property
    def container(self):
        (container,) = self.pod["containers"]
        return container

    @property
    def variables(self):
        return {one["name"]: one.get("value") for one in self.container["env"]}

    @property
    def config(self):
        """The file of settings that the pod sees."""
        return next(one["data"]["gateway.toml"] for one in self.all("ConfigMap") if "gateway.toml" in one["data"])

    @property
    def egress(self):
        return self.one("NetworkPolicy")["spec"]["egress"]


def restricted(of):
    """Pod Security's level restricted, and a little more: nothing may be written, nobody is known to the cluster."""
    pod, container = of.pod, of.container
    security = container.get("securityContext", {})
    if not pod["securityContext"].get("runAsNonRoot") or pod["securityContext"].get("runAsUser", 0) < 10000:
        yield "the pod does not run as a user with a high number"
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "the pod has no seccomp profile"
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "the container may gain privileges"
    if security.get("privileged") or not security.get("readOnlyRootFilesystem"):
        yield "the container may write to its root"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")) or pod.get("initContainers"):
        yield "the pod shares the node's namespaces, or has other containers"
    if pod.get("automountServiceAccountToken") is not False or pod["serviceAccountName"] == "default":
        yield "the pod carries a token for the cluster"
    if pod.get("enableServiceLinks") is not False:
        yield "service links would be read as settings"
    for volume in pod["volumes"]:
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"the volume {volume['name']} is of a kind that is not allowed"
    levels = of.one("Namespace")["metadata"]["labels"]
    if any(levels.get(f"pod-security.kubernetes.io/{mode}") != "restricted" for mode in ("enforce", "audit", "warn")):
        yield "the namespace does not enforce the level restricted"


def bounded(of):
    resources = of.container["resources"]
    for kind, name in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")]:
        if name not in resources.get(kind, {}):
            yield f"no {kind} of {name}"


def probed(of):
    for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        if of.container.get(probe, {}).get("httpGet") != {"path": path, "port": "admin"}:
            yield f"the {probe} does not ask {path} on the internal port"
    if [port["targetPort"] for port in of.one("Service")["spec"]["ports"]] != ["http"]:
        yield "the Service shows more than the API"


def stop(of):
    """How long a stop may take: the delay before the doors close, and what is under way then."""
    delay = of.variables.get("POSTERN__SERVER__DRAIN_DELAY", default("drain_delay"))
    deadline = tomllib.loads(of.config).get("server", {}).get("stop_deadline", default("stop_deadline"))
    return seconds(delay), seconds(deadline)


def stops_in_time(of):
    delay, deadline = stop(of)
    if delay < 1:
        yield "no delay before the doors close: calls would meet closed doors"
    if of.pod["terminationGracePeriodSeconds"] < delay + deadline + STOP_MARGIN:
        yield f"the pod is killed before server.drain_delay and server.stop_deadline ({delay + deadline} s) are over"


def labelled(of):
    places = [(one["kind"], one) for one in of.objects] + [("the pod", of.template)]
    for place, one in places:
        labels = one["metadata"].get("labels", {})
        wrong = [key for key, value in LABELS.items() if labels.get(key) != value]
        if wrong:
            yield f"{place} lacks labels, or has others: {', '.join(wrong)}"
        if place not in ("Namespace", "the pod") and one["metadata"].get("namespace") != "postern":
            yield f"{place} is not in the namespace"
    image = of.container["image"]
    if not image.endswith(f":{VERSION}") and not re.search(r"@sha256:[0-9a-f]{64}$", image):
        yield f"the image {image} is neither of version {VERSION} nor named by digest"


def selects_itself(of):
    """Every selector that means our pods means them, and none that means others does."""
    own = {key: LABELS[key] for key in (f"{NAME}name", f"{NAME}instance")}
    selectors = {
        "the Deployment": of.deployment["selector"]["matchLabels"],
        "the Service": of.one("Service")["spec"]["selector"],
        "the NetworkPolicy": of.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    }
    for spread in of.pod.get("topologySpreadConstraints", []):
        selectors[f"the spread over {spread['topologyKey']}"] = spread["labelSelector"]["matchLabels"]
    for budget in of.all("PodDisruptionBudget"):
        selectors["the PodDisruptionBudget"] = budget["spec"]["selector"]["matchLabels"]
    for place, selector in selectors.items():
        if selector != own:
            yield f"{place} selects {selector}"
    for scaler in of.all("HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"] != {"apiVersion": "apps/v1", "kind": "Deployment", "name": "postern"}:
            yield "the autoscaler scales something else"
    for peer in (peer for rule in of.egress for peer in rule["to"]):
        if own.items() & peer.get("podSelector", {}).get("matchLabels", {}).items():
            yield f"a way out leads to ourselves: {peer}"


def watched(of):
    """Who asks for figures asks our pods by the internal port, and is let in there; nobody else is."""
    doors = [
        (port["port"], bool(peer.get("podSelector")))
        for rule in of.one("NetworkPolicy")["spec"]["ingress"]
        for port in rule["ports"]
        for peer in rule["from"]
    ]
    monitors = of.all("PodMonitor")
    if doors != [("http", False)] + [("admin", True)] * len(monitors):
        yield f"the NetworkPolicy lets in by {doors} with {len(monitors)} monitors"
    for monitor in (one["spec"] for one in monitors):
        asked = [(one["port"], one["path"]) for one in monitor["podMetricsEndpoints"]]
        if asked != [("admin", "/metrics")] or "admin" not in [port["name"] for port in of.container["ports"]]:
            yield f"the monitor asks {asked}"
        if monitor["selector"] != of.deployment["selector"]:
            yield f"the monitor looks at {monitor['selector']}"


def alerted(of):
    """The operator of Prometheus gets the rules that promtool has tried, and whoever is called finds the way."""
    tried = without_pages(yaml.safe_load((ROOT / "deploy/k8s/components/alerts/rules.yaml").read_text()))
    for one in of.all("PrometheusRule"):
        if without_pages(one["spec"]) != tried:
            yield "the rules are not those of rules.yaml"
        for rule in (rule for group in one["spec"]["groups"] for rule in group["rules"]):
            page = rf"https://\S+/operations\.md#{rule['alert'].lower()}"
            if rule["labels"]["severity"] not in SEVERITIES or not re.fullmatch(page, rule["annotations"]["runbook_url"]):
                yield f"{rule['alert']} has no severity that is known, or no way to the handbook"


def without_pages(spec):
    """The rules without the address of the handbook, which is the operator's own."""
    return json.loads(re.sub(r"https://[^\s\"]+/operations\.md#", "#", json.dumps(spec)))


def is_dashboard(config):
    return config["metadata"]["labels"].get("grafana_dashboard") == "1"


def shown(of):
    """Grafana's sidecar takes up what has its label, in a file of its own."""
    for one in (one for one in of.all("ConfigMap") if is_dashboard(one) or "dashboard" in one["metadata"]["name"]):
        (text,) = one["data"].values()
        if not is_dashboard(one) or json.loads(text)["uid"] != "postern" or len(text) > 1_000_000:
            yield "the dashboard is not one that is taken up"


def settings_roll_out(of):
    mounted = {volume["configMap"]["name"] for volume in of.pod["volumes"] if "configMap" in volume}
    for config in (one for one in of.all("ConfigMap") if not is_dashboard(one)):
        name = config["metadata"]["name"]
        if not re.search(r"-[a-z0-9]{10}$", name) or not config.get("immutable") or name not in mounted:
            yield f"a change of {name} would not be a rollout"


def secrets_are_files(of):
    if of.all("Secret"):
        yield "a secret is in the manifests"
    for one in of.container["env"]:
        if "valueFrom" in one or re.search("SECRET$|PASSWORD$|_ENV$", one["name"]):
            yield f"{one['name']} brings a secret in by the environment"
    for volume in of.pod["volumes"]:
        secret = volume.get("secret")
        if secret and (secret.get("defaultMode") != 0o440 or not secret.get("items")):
            yield f"the secret {secret['secretName']} is open to others, or its files are not named"
        mounts = [mount for mount in of.container["volumeMounts"] if mount["name"] == volume["name"]]
        if len(mounts) != 1 or (("secret" in volume or "configMap" in volume) and not mounts[0].get("readOnly")):
            yield f"the volume {volume['name']} is not mounted once, or may be written to"


def shares_the_work(of):
    """One gateway on a SQLite file; several on PostgreSQL, within one budget towards Graph."""
    strategy = of.deployment["strategy"]
    if of.variables["POSTERN__STORE__URL"].startswith("sqlite:"):
        if of.deployment.get("replicas") != 1 or strategy != {"type": "Recreate"} or of.all("HorizontalPodAutoscaler"):
            yield "two gateways could open one SQLite file"
        return
    if "replicas" in of.deployment:
        yield "the Deployment and the autoscaler both say how many replicas there are"
    scaler, (budget,) = of.one("HorizontalPodAutoscaler")["spec"], of.all("PodDisruptionBudget")
    if scaler["minReplicas"] < 3 or budget["spec"].get("maxUnavailable") != 1:
        yield "a node that is emptied could leave one replica"
    rolling = strategy.get("rollingUpdate")
    if rolling != {"maxUnavailable": 0, "maxSurge": 1}:
        yield "a rollout has fewer replicas, or more than one too many"
    if of.deployment.get("minReadySeconds", 0) <= sum(stop(of)):
        yield "a rollout ends one replica while the one before may still be ending"
    keys = {spread["topologyKey"] for spread in of.pod.get("topologySpreadConstraints", [])}
    if keys != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
        yield "replicas are not spread over nodes and zones"
    for key in ("writes_max", "calls_max"):
        # During a rollout there is one more, and one still terminating, which Kubernetes does not count.
        most = (scaler["maxReplicas"] + 2) * int(of.variables.get(f"POSTERN__GRAPH__{key.upper()}", default(key)))
        if most > int(default(key)):
            yield f"all replicas together may go to {most} with graph.{key}, {default(key)} is the budget"


def leaves_by_known_ways(of):
    wanted = {53, 443}
    store = re.match(r"postgres://[^/:]+(?::(\d+))?/", of.variables["POSTERN__STORE__URL"])
    if store:
        wanted.add(int(store[1] or 5432))
    collector = of.variables.get("POSTERN__TELEMETRY__OTLP_ENDPOINT")
    if collector:
        wanted.add(int(collector.rsplit(":", 1)[1]))
    found = {port["port"] for rule in of.egress for port in rule["ports"]}
    if found != wanted:
        yield f"ways out by the ports {sorted(found)}, needed are {sorted(wanted)}"
    policy = of.one("NetworkPolicy")["spec"]
    if policy["policyTypes"] != ["Ingress", "Egress"] or not all(rule.get("from") for rule in policy["ingress"]):
        yield "anyone may come in, or everything may go out"
    excepted = set()
    for rule in of.egress:
        if not rule.get("to") or not rule.get("ports"):
            yield "a way out to anywhere"
        for block in (peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer):
            if block["cidr"] in PUBLIC:
                excepted |= set(block.get("except", []))
                if [port["port"] for port in rule["ports"]] != [443]:
                    yield "public addresses by another port than 443"
    if excepted != INSIDE:
        yield f"public addresses include private ones: {sorted(INSIDE - excepted)}"


def proves_itself_one_way(of):
    secrets = {volume["secret"]["secretName"] for volume in of.pod["volumes"] if "secret" in volume}
    kind = of.variables.get("POSTERN__GRAPH__CREDENTIAL__KIND", "secret")
    wanted = {"secret": {"postern-graph"}, "certificate": {"postern-certificate"}, "workload-identity": set()}[kind]
    if secrets - {"postern-database", "postern-secrets"} != wanted:
        yield f"a credential of kind {kind} with the secrets {sorted(secrets)}"
    label = of.template["metadata"]["labels"].get("azure.workload.identity/use")
    if (label == "true") != (kind == "workload-identity"):
        yield f"a credential of kind {kind} with the label of workload identity {label}"


RULES = [
    restricted,
    bounded,
    probed,
    stops_in_time,
    labelled,
    selects_itself,
    watched,
    alerted,
    shown,
    settings_roll_out,
    secrets_are_files,
    shares_the_work,
    leaves_by_known_ways,
    proves_itself_one_way,
]


def broken(rule, of):
    """What one rule says. What it cannot read is a fault, too."""
    try:
        return list(rule(of))
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as missing:
        return [f"cannot be read: {missing!r}"]


def faults(objects):
    of = Deployed(objects)
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in broken(rule, of)]
