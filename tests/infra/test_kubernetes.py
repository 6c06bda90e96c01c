"""Kubernetes' files as kubectl builds them, held against the schemas of Kubernetes and KubeRay; what pods may do."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import tools

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = "1.37"
KUBERAY = json.loads(Path(__file__).with_name("kuberay.json").read_text(encoding="utf-8"))["spec"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the folder with secrets as a person makes them."""
    path = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(INFRA / "kubernetes", path, ignore=shutil.ignore_patterns("secrets.env"))
    subprocess.run(["bash", INFRA / "make_env.sh", path / "secrets.env.example", path / "secrets.env"], check=True)
    return path


def build(folder):
    """Every object that `kubectl apply -k` would send."""
    code, out, err = tools.run("kubectl", "kustomize", folder)
    assert code == 0, err
    return list(yaml.safe_load_all(out))


@pytest.fixture(scope="module")
def objects(folder):
    """Those, and the job, by kind and name."""
    job = yaml.safe_load((folder / "ray-job.yaml").read_text())
    return {f"{one['kind']}/{one['metadata'].get('name', 'job')}": one for one in [*build(folder), job]}


def pods(objects):
    """Every pod's template by the object that has it."""
    found = {}

    def look(name, value):
        if isinstance(value, dict):
            if "containers" in value.get("spec", {}):
                found[name] = value
            for key, below in value.items():
                look(f"{name}/{key}", below)
        if isinstance(value, list):
            for number, below in enumerate(value):
                look(f"{name}/{number}", below)

    for name, one in objects.items():
        look(name, one.get("spec", {}))
    return found


def check(one):
    """Raise a ValidationError unless an object is as its schema wants it, and has no key that the schema lacks."""
    if one["kind"] in KUBERAY:
        jsonschema.Draft202012Validator(KUBERAY[one["kind"]]).validate(one["spec"])
        for name, template in pods({one["kind"]: one}).items():
            standing = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "one"}, "template": template}
            try:
                kubernetes_validate.validate(standing, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise jsonschema.ValidationError(f"{name}: {error.message}") from error
    else:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_there_is_all_of_it(objects):
    assert set(objects) == {
        *("Namespace/r2d2", "Secret/r2d2", "PersistentVolumeClaim/shared", "RayCluster/r2d2", "RayJob/job"),
        *("StatefulSet/postgres", "Service/postgres", "NetworkPolicy/postgres"),
        *("Deployment/mlflow", "Service/mlflow", "Deployment/dashboard"),
    }
    assert len(pods(objects)) == 6


def test_every_object_is_as_its_schema_wants_it(objects):
    for one in objects.values():
        check(one)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "r2d2"


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("RayCluster/r2d2", ["spec", "headGroup"], {}),
        ("RayCluster/r2d2", ["spec", "authOptions", "mode"], "password"),
        ("RayCluster/r2d2", ["spec", "workerGroupSpecs", 0, "replicas"], "two"),
        ("RayCluster/r2d2", ["spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "imagePolicy"], "x"),
        ("RayJob/job", ["spec", "entryPoint"], "r2d2"),
        ("Deployment/mlflow", ["spec", "replica"], 1),
    ],
)
def test_what_a_schema_does_not_want_is_found(objects, name, path, value):
    one = json.loads(json.dumps(objects[name]))
    *above, last = path
    place = one
    for key in above:
        place = place[key]
    place[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(one)


def test_every_pod_may_do_no_more_than_the_restricted_standard_and_says_what_it_takes(objects):
    for name, template in pods(objects).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] >= 999, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.get("hostNetwork"), name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False and rights["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_what_serves_is_probed(objects):
    for name in ("StatefulSet/postgres", "Deployment/mlflow", "Deployment/dashboard"):
        (container,) = objects[name]["spec"]["template"]["spec"]["containers"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys(), name


def test_secrets_reach_pods_as_files_or_references_and_every_pod_of_r2d2_refuses_examples(folder, objects):
    values = [base64.b64decode(value).decode() for value in objects["Secret/r2d2"]["data"].values()]
    assert len(set(values)) == 4 and all(len(value) == 48 for value in values)
    for name, template in pods(objects).items():
        assert not [value for value in values if value in json.dumps(template)]
        if name.startswith("RayCluster"):
            (first,) = template["spec"]["initContainers"]
            assert first["command"][-1] == "check"
            # Whoever submits a job may read what the nodes may: no more than this.
            (mounted,) = [one["secret"] for one in template["spec"]["volumes"] if "secret" in one]
            assert {one["key"] for one in mounted["items"]} == {"auth_token", "mlflow_password"}
    assert objects["RayCluster/r2d2"]["spec"]["authOptions"] == {"mode": "token", "secretName": "r2d2"}


def test_without_secrets_nothing_is_built(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("secrets.env"))
    code, out, err = tools.run("kubectl", "kustomize", tmp_path / "copy")
    assert code == 1 and out == "" and "secrets.env" in err


def test_jobs_may_leave_with_a_checkpoint_and_record_where_the_cluster_does(objects):
    spec = objects["RayCluster/r2d2"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        told = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert told["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
        assert told["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        (shared,) = pod["containers"][0]["volumeMounts"]
        assert told["R2D2_HOME"].startswith(shared["mountPath"] + "/")


def test_gpus_the_hosts_network_and_a_registry_are_a_line_each(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    kustomization = tmp_path / "copy" / "kustomization.yaml"
    text = kustomization.read_text()
    kustomization.write_text(text.replace("# components:", "components:").replace("# images:", "images:"))
    objects = {one["kind"]: one for one in build(tmp_path / "copy")}
    check(objects["RayCluster"])
    spec = objects["RayCluster"]["spec"]
    (worker,) = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["image"] == "REGISTRY/r2d2:0.1.0-gpu"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["spec"]["hostNetwork"] is True
    assert objects["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
