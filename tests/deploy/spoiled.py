"""Proof that each rule can fail: one change for each, and the rule that must notice it.

All begin with the overlay ha and the components prometheus, alerts and dashboard as they are, which have no fault.
"""

from rules import RULES, Deployed, broken, is_dashboard


def ways_to_spoil(of):
    """(rule, what is done, a function that does it)"""
    pod, container, deployment = of.pod, of.container, of.deployment
    metadata, egress = of.template["metadata"], of.egress
    scaler = of.one("HorizontalPodAutoscaler")["spec"]
    settings = [one for one in of.all("ConfigMap") if not is_dashboard(one)]
    alert = of.all("PrometheusRule")[0]["spec"]["groups"][0]["rules"][0]
    dashboard = next(one for one in of.all("ConfigMap") if is_dashboard(one))

    def env(name, value):
        next(one for one in container["env"] if one["name"] == name)["value"] = value

    return [
        ("restricted", "root", lambda: pod["securityContext"].update(runAsUser=0)),
        ("restricted", "no seccomp", lambda: pod["securityContext"].pop("seccompProfile")),
        ("restricted", "escalation", lambda: container["securityContext"].pop("allowPrivilegeEscalation")),
        ("restricted", "writable root", lambda: container["securityContext"].pop("readOnlyRootFilesystem")),
        ("restricted", "host network", lambda: pod.update(hostNetwork=True)),
        ("restricted", "host path", lambda: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        ("restricted", "open namespace", lambda: of.one("Namespace")["metadata"].update(labels={})),
        ("restricted", "service links", lambda: pod.pop("enableServiceLinks")),
        ("restricted", "the cluster's token", lambda: pod.pop("automountServiceAccountToken")),
        ("bounded", "no memory limit", lambda: container["resources"].pop("limits")),
        ("probed", "no readiness", lambda: container.pop("readinessProbe")),
        ("probed", "probes shown", lambda: of.one("Service")["spec"]["ports"][0].update(targetPort="admin")),
        ("stops_in_time", "no delay", lambda: env("POSTERN__SERVER__DRAIN_DELAY", "0s")),
        ("stops_in_time", "a short grace", lambda: pod.update(terminationGracePeriodSeconds=30)),
        ("labelled", "an old version", lambda: metadata["labels"].update({"app.kubernetes.io/version": "0.0.1"})),
        ("labelled", "another image", lambda: container.update(image="registry.example.org/postern:latest")),
        ("labelled", "another namespace", lambda: of.one("Service")["metadata"].update(namespace="default")),
        ("selects_itself", "a wide service", lambda: of.one("Service")["spec"].update(selector={})),
        ("selects_itself", "names from ourselves", lambda: egress[0]["to"][0]["podSelector"]["matchLabels"].update(
            {"app.kubernetes.io/name": "postern"})),
        ("selects_itself", "a budget for others", lambda: of.one("PodDisruptionBudget")["spec"].update(
            selector={"matchLabels": {}})),
        ("watched", "figures for anyone", lambda: of.one("NetworkPolicy")["spec"]["ingress"][0]["ports"].append(
            {"port": "admin"})),
        ("watched", "another port", lambda: of.one("PodMonitor")["spec"]["podMetricsEndpoints"][0].update(port="http")),
        ("watched", "others' pods", lambda: of.one("PodMonitor")["spec"].update(selector={})),
        ("alerted", "another rule", lambda: alert.update(expr="1")),
        ("alerted", "no way to the handbook", lambda: alert["annotations"].update(runbook_url="?")),
        ("shown", "no label", lambda: dashboard["metadata"].update(labels={})),
        ("settings_roll_out", "a plain name", lambda: settings[0]["metadata"].update(name="postern-config")),
        ("settings_roll_out", "an editable map", lambda: settings[1].pop("immutable")),
        ("secrets_are_files", "a secret variable", lambda: container["env"].append(
            {"name": "PGPASSWORD", "value": "x"})),
        ("secrets_are_files", "a secret in the open", lambda: of.objects.append(
            {"kind": "Secret", "metadata": {"labels": metadata["labels"], "namespace": "postern"}})),
        ("secrets_are_files", "a readable secret", lambda: pod["volumes"][0]["secret"].update(defaultMode=0o444)),
        ("shares_the_work", "two on a file", lambda: env("POSTERN__STORE__URL", "sqlite:/var/lib/postern/postern.db")),
        ("shares_the_work", "too large a share", lambda: env("POSTERN__GRAPH__WRITES_MAX", "12")),
        ("shares_the_work", "two that end at once", lambda: deployment.update(minReadySeconds=25)),
        ("shares_the_work", "too many at once", lambda: scaler.update(maxReplicas=6)),
        ("shares_the_work", "two masters", lambda: deployment.update(replicas=3)),
        ("shares_the_work", "fewer in a rollout", lambda: deployment["strategy"]["rollingUpdate"].update(
            maxUnavailable=1)),
        ("shares_the_work", "one node", lambda: pod.pop("topologySpreadConstraints")),
        ("leaves_by_known_ways", "no way to the database", lambda: egress.pop(2)),
        ("leaves_by_known_ways", "the metadata service", lambda: egress[1]["to"][0]["ipBlock"]["except"].remove(
            "169.254.0.0/16")),
        ("leaves_by_known_ways", "anywhere", lambda: egress[1].pop("to")),
        ("leaves_by_known_ways", "anyone", lambda: of.one("NetworkPolicy")["spec"]["ingress"][0].pop("from")),
        ("proves_itself_one_way", "a label and a secret", lambda: metadata["labels"].update(
            {"azure.workload.identity/use": "true"})),
    ]


def unnoticed(render):
    """What was spoiled and no rule noticed; `render` gives fresh objects each time."""
    count = len(ways_to_spoil(Deployed(render())))
    missed, tried = [], set()
    for at in range(count):
        of = Deployed(render())
        rule, what, spoil = ways_to_spoil(of)[at]
        tried.add(rule)
        spoil()
        check = next(one for one in RULES if one.__name__ == rule)
        if not broken(check, of):
            missed.append(f"the rule {rule} does not notice {what}")
    missed += [f"nothing shows that the rule {one.__name__} can fail" for one in RULES if one.__name__ not in tried]
    return missed, count
