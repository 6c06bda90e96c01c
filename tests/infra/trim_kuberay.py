"""Make `kuberay.json` of KubeRay's own definitions: the schemas of RayCluster and RayJob, without what is not theirs.

    python tests/infra/trim_kuberay.py KUBERAY_CLONE REVISION > tests/infra/kuberay.json

Left out: descriptions, status, and the schema of a pod wherever one is embedded: the test takes Kubernetes' own for it.
Unknown keys are refused, as `kubectl --validate=strict` does.
"""

import json
import subprocess
import sys

import yaml

CRDS = "helm-chart/kuberay-operator/crds/ray.io_{}.yaml"


def main(clone, revision):
    kinds = {}
    for name in ("rayclusters", "rayjobs"):
        told = ["git", "-C", clone, "show", f"{revision}:{CRDS.format(name)}"]
        definition = yaml.safe_load(subprocess.run(told, check=True, capture_output=True).stdout)
        (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        kinds[definition["spec"]["names"]["kind"]] = trimmed(schema["properties"]["spec"])
    source = f"ray-project/kuberay {revision}, {CRDS.format('*')}, Apache-2.0; trimmed by tests/infra/trim_kuberay.py"
    json.dump({"source": source, "spec": kinds}, sys.stdout, sort_keys=True)
    print()


def trimmed(schema):
    """The schema without what the module's first lines name."""
    properties = schema.get("properties", {})
    if "containers" in properties.get("spec", {}).get("properties", {}):
        return {"x-pod-template": True, "type": "object"}
    kept = {key: value for key, value in schema.items() if key not in ("description", "x-kubernetes-validations")}
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = trimmed(kept[key])
    if properties:
        kept["properties"] = {key: trimmed(value) for key, value in properties.items()}
        kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return kept


if __name__ == "__main__":
    main(*sys.argv[1:])
