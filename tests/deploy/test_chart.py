"""The Helm chart: rendered by the real helm, and checked by the schemas of Kubernetes and of its extensions.

What it starts is checked by our own parsers: options of commands, `hybrid.yaml`, and certificates in real handshakes.
"""

from __future__ import annotations

import argparse
import copy
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hybrid_llm.backends.grpc import GrpcConfig
from hybrid_llm.backends.grpc.health_check import check_node
from hybrid_llm.backends.node.ray.app import ENVIRONMENT, SERVICER, build, engine_config
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.cli.main import build_parser
from hybrid_llm.cli.serve_model import models_of
from hybrid_llm.core.errors import AuthenticationFailed
from hybrid_llm.core.rights.grants import Caller, Operation
from hybrid_llm.policies.rights import load_rights
from hybrid_llm.router.config import load_config
from tests.backends.wire import fakes
from tests.deploy.helm import CHART, VALUES, helm, rendered, run, template

pytestmark = pytest.mark.skipif(
    helm() is None, reason="no helm: its package cannot be downloaded, and none is installed"
)
Object = dict[str, Any]
CRDS = {path.stem: json.loads(path.read_text("utf-8")) for path in Path(__file__).with_name("crds").glob("*.json")}
CLUSTERS = ("1.30", "1.37")
"""The oldest version of Kubernetes that the chart says it needs, and the newest whose schema is known."""
FOLDER = VALUES[0].parent
OURS = f"{build.__module__}:{build.__name__}"
EVERY = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)


def workloads(objects: tuple[Object, ...]) -> list[Object]:
    return of_kind(objects, "Deployment", "StatefulSet")


def pods(each: Object) -> Iterator[Object]:
    """The templates of pods in an object."""
    if each["kind"] in ("Deployment", "StatefulSet"):
        yield each["spec"]["template"]
    if each["kind"] == "RayService":
        cluster = each["spec"]["rayClusterConfig"]
        yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def check(each: Object) -> None:
    """Raise if no version of Kubernetes, or no extension of it, would take an object."""
    if each["kind"] in CRDS:
        jsonschema.validate(each, CRDS[each["kind"]])
        assert each["apiVersion"] in CRDS[each["kind"]]["$comment"]
        for pod in pods(each):
            for version in CLUSTERS:
                named_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod["spec"]}
                kubernetes_validate.validate(named_pod, version, strict=True)
        return
    for version in CLUSTERS:
        kubernetes_validate.validate(each, version, strict=True)


@EVERY
def test_every_documented_file_of_values_is_clean_and_renders_valid_objects(values: Path) -> None:
    linted = run("lint", "--strict", str(CHART), "--values", str(values), "--namespace", "llm")
    assert linted.returncode == 0, linted.stdout
    objects = rendered(values)
    for each in objects:
        check(each)
        assert len(each["metadata"]["name"]) <= 63
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))


def test_the_checks_find_a_field_that_does_not_exist() -> None:
    objects = rendered(FOLDER / "autoscaled.yaml")
    for kind in ("Deployment", "NetworkPolicy", "Certificate", "ScaledObject", "ServiceMonitor"):
        broken = copy.deepcopy(of_kind(objects, kind)[0])
        broken["spec"]["replicsa"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(broken)


@EVERY
def test_every_command_of_a_container_parses(values: Path) -> None:
    for pod in (pod for each in workloads(rendered(values)) for pod in pods(each)):
        for container in containers(pod):
            words = [str(word) for word in container["args"]]
            assert callable(build_parser(words).parse_args(words).run)
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if command := container.get(probe, {}).get("exec", {}).get("command"):
                    assert command[:2] == ["hybrid-llm", "health"]
                    assert callable(build_parser(command[1:]).parse_args(command[1:]).run)


@EVERY
def test_the_configuration_of_a_gateway_is_read(values: Path, tmp_path: Path) -> None:
    for each in of_kind(rendered(values), "ConfigMap"):
        if not each["metadata"]["name"].endswith("-gateway"):
            continue
        for name, text in each["data"].items():
            (tmp_path / name).write_text(text.replace("/policy/", f"{tmp_path}/"), encoding="utf-8")
        config = load_config(tmp_path / "hybrid.yaml")
        assert config.gateway.keys is not None
        config.open_policy()


@EVERY
def test_a_pod_is_not_root_writes_to_its_volumes_alone_and_has_no_token(values: Path) -> None:
    for workload, pod in ((each, pod) for each in workloads(rendered(values)) for pod in pods(each)):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for claim in workload["spec"].get("volumeClaimTemplates", ()):
            assert volumes.setdefault(claim["metadata"]["name"], {"claim": claim}) == {"claim": claim}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {"/tmp", "/var/lib/hybrid-llm"} <= mounts.keys()
            assert {mount["name"] for mount in mounts.values()} <= volumes.keys()
            for mount in mounts.values():
                assert mount.get("readOnly") or {"emptyDir", "claim"} & volumes[mount["name"]].keys()


@EVERY
def test_everything_that_selects_pods_selects_some(values: Path) -> None:
    objects = rendered(values)
    owners = [[*pods(each)] for each in (*workloads(objects), *of_kind(objects, "RayService"))]
    ports = {
        port["name"] for owned in owners for pod in owned for port in pod["spec"]["containers"][0].get("ports", ())
    }

    def selected(labels: Object) -> int:
        """How many objects have their pods selected; KubeRay adds a label to those that serve."""
        wanted = labels.items() - {("ray.io/serve", "true")}
        return sum(all(wanted <= pod["metadata"]["labels"].items() for pod in owned) for owned in owners)

    for each in of_kind(objects, "Service"):
        assert selected(each["spec"]["selector"]) == 1
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    for each in (*workloads(objects), *of_kind(objects, "PodDisruptionBudget")):
        assert selected(each["spec"]["selector"]["matchLabels"]) == 1
    for each in of_kind(objects, "NetworkPolicy"):
        assert selected(each["spec"]["podSelector"]["matchLabels"]) == 1
        assert set(each["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    for each in of_kind(objects, "ServiceMonitor"):
        labels, (endpoint,) = each["spec"]["selector"]["matchLabels"].items(), each["spec"]["endpoints"]
        found = [service for service in of_kind(objects, "Service") if labels <= service["metadata"]["labels"].items()]
        assert [port["name"] for service in found for port in service["spec"]["ports"]].count(endpoint["port"]) == 1
    scaled = [(each["kind"], each["metadata"]["name"]) for each in workloads(objects)]
    for each in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in scaled
        assert "replicas" not in named(objects, target["kind"], target["name"])["spec"]


@EVERY
def test_a_pod_has_time_to_leave_and_to_finish_its_answers(values: Path) -> None:
    for each in workloads(rendered(values)):
        pod = each["spec"]["template"]["spec"]
        words = [str(word) for word in pod["containers"][0]["args"]]
        sleep = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        args = build_parser(words).parse_args(words)
        if words[0] == "serve":
            assert sleep > 0
            assert pod["terminationGracePeriodSeconds"] > sleep + args.grace
        else:
            assert pod["terminationGracePeriodSeconds"] >= 10 + 10


def test_the_headless_service_lists_ready_nodes_for_the_pickers_of_apps() -> None:
    objects = rendered(FOLDER / "minimal.yaml")
    service = named(objects, "Service", "llm-hybrid-llm-nodes")["spec"]
    assert service["clusterIP"] == "None"
    assert not service.get("publishNotReadyAddresses")
    hosts = named(objects, "Certificate", "llm-hybrid-llm-node")["spec"]["dnsNames"]
    assert {"llm-hybrid-llm-nodes.llm.svc", "llm-hybrid-llm-node.llm.svc.cluster.local", "localhost"} <= set(hosts)


def test_a_stateful_set_is_named_by_the_headless_service() -> None:
    objects = rendered(FOLDER / "gpu.yaml")
    (stateful,) = of_kind(objects, "StatefulSet")
    assert stateful["spec"]["serviceName"] in {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    limits = stateful["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "48Gi", "nvidia.com/gpu": 1}


def test_a_model_is_pulled_and_loaded_only_if_it_is_signed() -> None:
    (pod,) = pods(of_kind(rendered(FOLDER / "gpu.yaml"), "StatefulSet")[0])
    pull, serve = ([str(word) for word in container["args"]] for container in containers(pod))
    asked = build_parser(pull).parse_args(pull)
    assert (asked.model, asked.registry, str(asked.into)) == (
        "qwen@prod",
        "s3://models.example/registry",
        "/models/model",
    )
    for words in (pull, serve):
        args = build_parser(words).parse_args(words)
        assert (str(args.ca), args.identity) == ("/trust/ca.pem", "spiffe://hybrid-llm/signer/release")
    assert str(build_parser(serve).parse_args(serve).model) == "/models/model"


def test_rights_let_the_probe_ask_for_health_and_nothing_else(tmp_path: Path) -> None:
    objects = rendered(FOLDER / "hardened.yaml")
    path = tmp_path / "rights.yaml"
    path.write_text(named(objects, "ConfigMap", "llm-hybrid-llm-rights")["data"]["rights.yaml"], encoding="utf-8")
    rights = load_rights(path)
    probe, gateway = (Caller(identity=f"spiffe://hybrid-llm/client/{name}") for name in ("probe", "gateway"))
    assert [one for one in Operation if rights.may(probe, one).allowed] == [Operation.HEALTH]
    assert rights.may(gateway, Operation.GENERATE).allowed
    words = [
        str(word) for word in containers(next(pods(named(objects, "Deployment", "llm-hybrid-llm-node"))))[1]["args"]
    ]
    args = build_parser(words).parse_args(words)
    assert (str(args.rights), args.audit_required) == ("/rights/rights.yaml", True)


def served(values: str, *sets: str) -> tuple[argparse.Namespace, Object]:
    """The options of the nodes' `serve`, and their pod."""
    objects = workloads(rendered(FOLDER / values, *sets))
    (pod,) = (pod for each in objects if each["metadata"]["name"].endswith("-node") for pod in pods(each))
    words = [str(word) for word in containers(pod)[-1]["args"]]
    return build_parser(words).parse_args(words), pod


@EVERY
def test_what_is_read_again_is_mounted_as_a_whole_folder(values: Path) -> None:
    """The kubelet never changes a file that is mounted by its subPath."""
    for pod in (pod for each in workloads(rendered(values)) for pod in pods(each)):
        kinds = {"secret", "configMap", "projected"}
        swapped = {each["name"] for each in pod["spec"]["volumes"] if kinds & each.keys()}
        for mount in (mount for container in containers(pod) for mount in container["volumeMounts"]):
            assert mount["name"] not in swapped or "subPath" not in mount


def test_files_of_secrets_and_config_maps_are_where_a_node_looks_for_them() -> None:
    options, pod = served("mounted.yaml")
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    folders = {mount["mountPath"]: volumes[mount["name"]] for mount in containers(pod)[0]["volumeMounts"]}
    assert folders[str(options.rights.parent)]["configMap"]["name"] == "node-rights"
    assert folders[str(options.sealed)]["secret"]["secretName"] == "sealing-keys"
    assert folders[str(options.audit_key.parent)]["secret"]["secretName"] == "audit-key"
    tls = TLSFiles.from_dir(options.tls, options.name)
    sources = [source for each in folders[str(options.tls)]["projected"]["sources"] for source in each.values()]
    paths = {item["path"]: source["name"] for source in sources for item in source["items"]}
    assert tls.crl is not None
    assert paths[tls.crl.name] == "revoked"
    assert {tls.ca.name, tls.cert.name, tls.key.name} < paths.keys()


def test_urls_and_passwords_of_databases_come_from_secrets() -> None:
    """A command line has the file of a URL alone; Kubernetes would put what `$(NAME)` stands for into it."""
    options, pod = served("mounted.yaml")
    (mount,) = (each for each in containers(pod)[0]["volumeMounts"] if each["name"] == "databases")
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "databases")
    files = {
        f"{mount['mountPath']}/{item['path']}": (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert files[str(options.quotas.file)] == ("databases", "quotas")
    assert files[str(options.audit.file)] == ("databases", "audit")
    password = next(each for each in containers(pod)[0]["env"] if each["name"] == "PGPASSWORD")
    assert password["valueFrom"]["secretKeyRef"] == {"name": "databases", "key": "password"}


@EVERY
def test_no_command_line_has_what_a_variable_of_a_secret_holds(values: Path) -> None:
    for pod in (pod for each in workloads(rendered(values)) for pod in pods(each)):
        for container in containers(pod):
            known = {each["name"] for each in container.get("env", ()) if "secretKeyRef" in each.get("valueFrom", {})}
            assert not [word for word in container["args"] if any(f"$({name})" in str(word) for name in known)]


def test_a_gateway_reads_the_policy_and_the_rights_that_are_mounted() -> None:
    objects = rendered(FOLDER / "mounted.yaml")
    gateway = named(objects, "Deployment", "llm-hybrid-llm-gateway")
    config = yaml.safe_load(named(objects, "ConfigMap", "llm-hybrid-llm-gateway")["data"]["hybrid.yaml"])
    mounts = {mount["mountPath"] for mount in containers(next(pods(gateway)))[0]["volumeMounts"]}
    for path in (config["policy"], config["gateway"]["rights"]):
        assert str(Path(path).parent) in mounts


def test_a_node_that_fetches_its_model_does_so_into_a_volume_of_its_own() -> None:
    options, pod = served("fetching.yaml")
    assert len(containers(pod)) == 1
    assert (str(options.model), options.registry) == ("qwen@prod", "s3://models.example/sealed")
    assert (str(options.key_file), str(options.ca)) == ("/registry/registry.key", "/trust/ca.pem")
    assert options.adapter == [("support", "support@prod")]
    assert options.model_cache == Path("/var/lib/hybrid-llm/models")
    assert [str(path) for path in (options.quotas, options.audit)] == [
        f"/var/lib/hybrid-llm/{name}.db" for name in ("quotas", "audit")
    ]
    probe = containers(pod)[0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > options.load_limit + 1800
    (claim,) = of_kind(rendered(FOLDER / "fetching.yaml"), "StatefulSet")[0]["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"
    assert {"secretRef": {"name": "s3-credentials"}} in containers(pod)[0]["envFrom"]


def test_a_folder_of_object_storage_is_fetched_and_must_be_signed_with_the_key_that_pods_have() -> None:
    options, pod = served("bucket.yaml")
    assert (str(options.model), options.registry) == ("s3://models.example/smollm2-135m", None)
    assert options.adapter == [("support", "s3://models.example/support-lora")]
    assert (options.ca, options.public_key) == (None, Path("/trust/release.key.pub"))
    models_of(options)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["trust"]["secret"]["secretName"] == "release-key"
    assert volumes["models"]["emptyDir"] == {"sizeLimit": "2Gi"}
    mounts = {mount["mountPath"]: mount for mount in containers(pod)[0]["volumeMounts"]}
    assert "readOnly" not in mounts[str(options.model_cache)]
    assert mounts["/trust"]["readOnly"]
    assert {"secretRef": {"name": "s3-credentials"}} in containers(pod)[0]["envFrom"]
    assert len(containers(pod)) == 1


@pytest.mark.parametrize(("size", "gigabytes"), [("20Gi", 21.475), ("1500M", 1.5), ("0.5Ti", 549.756)])
def test_without_a_claim_the_cache_holds_no_more_than_its_volume(size: str, gigabytes: float) -> None:
    """A pod that writes more than the sizeLimit of an emptyDir is evicted."""
    volatile = ("node.state.claim=false", "node.state.size=1Gi", "node.quotas.file=false", "node.audit.file=false")
    options, pod = served("fetching.yaml", *volatile, f"model.size={size}")
    assert options.model_cache_size == int(gigabytes * 1e9)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    (mount,) = (each for each in containers(pod)[0]["volumeMounts"] if each["mountPath"] == str(options.model_cache))
    assert volumes[mount["name"]] == {"name": "models", "emptyDir": {"sizeLimit": size}}


def test_adapters_of_a_volume_are_folders_beside_the_model() -> None:
    options, pod = served("mounted.yaml")
    mounts = {mount["mountPath"]: mount.get("subPath") for mount in containers(pod)[0]["volumeMounts"]}
    folders = {name: mounts[where] for name, where in options.adapter}
    assert folders == {"support": "support-lora", "sales": "sales-lora"}
    assert mounts[str(options.model)] == "smollm2-135m"


def test_vllm_is_started_as_the_engine_of_a_node() -> None:
    options, _ = served("vllm.yaml")
    assert (options.engine, str(options.engine_python)) == ("vllm", "/usr/bin/python3")
    assert dict(options.engine_option) == {"gpu_memory_utilization": "0.85"}


def test_nodes_scale_by_the_requests_that_wait() -> None:
    (keda,) = of_kind(rendered(FOLDER / "autoscaled.yaml"), "ScaledObject")
    trigger = keda["spec"]["triggers"][0]["metadata"]
    assert trigger["query"] == 'sum(vllm:num_requests_waiting{namespace="llm"})'
    (seen,) = of_kind(rendered(FOLDER / "autoscaled.yaml", "node.metricsPort=0"), "ScaledObject")
    assert "hybrid_llm_node_queued_requests" in seen["spec"]["triggers"][0]["metadata"]["query"]
    assert trigger["threshold"] == "4"
    (hpa,) = of_kind(rendered(FOLDER / "hpa.yaml"), "HorizontalPodAutoscaler")
    metric = hpa["spec"]["metrics"][0]["external"]
    known = (CHART.parents[2] / "docs" / "operations.md").read_text("utf-8")
    assert f"`{metric['metric']['name']}`" in known


def test_each_node_is_scraped_once_at_the_port_where_it_serves_metrics() -> None:
    objects = rendered(FOLDER / "autoscaled.yaml")
    (monitor,) = (each for each in of_kind(objects, "ServiceMonitor") if each["metadata"]["name"].endswith("-node"))
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    services = [each for each in of_kind(objects, "Service") if labels <= each["metadata"]["labels"].items()]
    ports = [port for service in services for port in service["spec"]["ports"] if port["name"] == "metrics"]
    assert [port["port"] for port in ports] == [9465]
    node = next(pods(named(objects, "Deployment", "llm-hybrid-llm-node")))
    args = [str(word) for word in containers(node)[-1]["args"]]
    assert build_parser(args).parse_args(args).metrics == "0.0.0.0:9465"


def test_the_network_lets_in_whom_the_values_name_and_nobody_else() -> None:
    (alone,) = of_kind(rendered(FOLDER / "minimal.yaml", "networkPolicy.nodeFrom=null"), "NetworkPolicy")
    assert not alone["spec"]["ingress"]
    objects = rendered(FOLDER / "autoscaled.yaml")
    node = named(objects, "NetworkPolicy", "llm-hybrid-llm-node")["spec"]
    assert [rule["ports"][0]["port"] for rule in node["ingress"]] == ["grpc", "metrics"]
    gateway = node["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert (
        gateway.items()
        <= named(objects, "Deployment", "llm-hybrid-llm-gateway")["spec"]["template"]["metadata"]["labels"].items()
    )
    for each in of_kind(objects, "NetworkPolicy"):
        assert all("to" in rule for rule in each["spec"]["egress"])
    everybody = named(rendered(FOLDER / "hpa.yaml"), "NetworkPolicy", "llm-hybrid-llm-gateway")["spec"]["ingress"]
    assert "from" not in everybody[0]


def test_ray_serves_our_engine_to_the_nodes_alone_and_reports_to_nobody() -> None:
    objects = rendered(FOLDER / "ray-engine.yaml")
    (service,) = of_kind(objects, "RayService")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert serve["grpc_options"]["grpc_servicer_functions"] == [SERVICER]
    (application,) = serve["applications"]
    assert application["import_path"] == OURS
    assert engine_config(application["args"]).model == Path("/models/model")
    assert application["deployments"][0]["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 1}
    for pod in pods(service):
        environment = {each["name"]: each["value"] for each in containers(pod)[0]["env"]}
        assert environment.items() >= ENVIRONMENT.items()
    node = next(pods(named(objects, "Deployment", "llm-hybrid-llm-node")))
    args = [str(word) for word in containers(node)[-1]["args"]]
    options = build_parser(args).parse_args(args)
    balancers = named(objects, "Service", "llm-hybrid-llm-replicas")
    assert (options.engine, options.replicas) == ("ray", f"{balancers['metadata']['name']}:9000")
    chosen = {**balancers["spec"]["selector"]}
    assert chosen.pop("ray.io/serve") == "true"  # KubeRay's label
    for pod in pods(service):
        assert chosen.items() <= pod["metadata"]["labels"].items()
    policy = named(objects, "NetworkPolicy", "llm-hybrid-llm-ray")["spec"]
    assert policy["podSelector"]["matchLabels"] == chosen
    front, each_other, _ = policy["ingress"]
    assert [port["port"] for port in front["ports"]] == [9000]
    assert front["from"][0]["podSelector"]["matchLabels"].items() <= node["metadata"]["labels"].items()
    assert each_other == {"from": [{"podSelector": {"matchLabels": chosen}}]}


REPLICATED = f"ray.enabled=true,ray.image.tag=x,ray.rayVersion=2.60.0,ray.importPath={OURS}"
BAD = {
    "node.replcas=2": "replcas",
    "node.replicas=many": "replicas",
    "node.port=0": "port",
    "node.kind=DaemonSet": "kind",
    "node.gpu.count=-1": "count",
    "node.image.digest=sha256:ab": "digest",
    "node.resources.limits.memory=lots": "memory",
    "node.telemetry.endpoint=otel:4318": "endpoint",
    "service.type=Ingress": "type",
    "node.audit.url=postgresql://db/audit": "node.audit.keySecret",
    "node.audit.url=audit.db,node.audit.keySecret=k": "url",
    "node.rights.version=1,node.rightsFrom.secret=r": "node.rightsFrom",
    "node.rightsFrom.secret=r,node.rightsFrom.configMap=r": "node.rightsFrom",
    "node.rightsFrom.secret=r,node.rightsFrom.file=../x": "file",
    "node.quotas.url=postgresql://db/quotas": "node.rightsFrom",
    "node.quotas.url=sqlite:///x": "url",
    "node.quotas.url=postgresql://quotas:hunter2@db/quotas": "urlSecret",
    "node.quotas.url=postgresql://db/quotas?sslpassword=hunter2": "urlSecret",
    "node.audit.url=postgresql://audit:hunter2@db/audit,node.audit.keySecret=k": "urlSecret",
    "node.quotas.file=true": "node.state.claim",
    "node.audit.file=true,node.audit.url=postgresql://db/audit": "node.audit",
    "node.audit.urlSecret.name=s": "node.audit.keySecret",
    "node.state.claim=true": "StatefulSet",
    "node.sealed.only=true": "node.sealed.secret",
    "node.engine.python=/usr/bin/python3": "node.engine",
    "node.engine.name=vllm,node.engine.options.Max-Len=1": "Max-Len",
    "tls.revocationList.secret=r,tls.revocationList.configMap=r": "tls.revocationList",
    "gateway.policyFrom.secret=r,gateway.policyFrom.configMap=r": "gateway.policyFrom",
    "model.pvc.claimName=,model.registry.url=s3://b/f,model.registry.name=m,model.adapters.a=b": "model.fetch",
    "model.fetch=pull": "fetch",
    "model.adapters.a/b=c": "a/b",
    f"{REPLICATED},model.adapters.a=b": "model.adapters",
    "model.pvc.claimName=Models": "claimName",
    "model.pvc.claimName=": "model: name one source",
    "model.registry.url=s3://b/f": "model: name one source",
    "model.url=s3://b/f": "model: name one source",
    "model.pvc.claimName=,model.url=s3://key:hunter2@b/f": "model.envFrom",
    "model.pvc.claimName=,model.url=models/smollm2": "url",
    "model.trust.identity=spiffe://hybrid-llm/signer/x": "trust.secret",
    "model.trust.publicKey=release.key.pub": "trust.secret",
    "model.trust.secret=s,model.trust.publicKey=k.pub,model.trust.identity=spiffe://hybrid-llm/signer/x": "identity",
    "model.registry.trust.secret=s": "trust",
    "model.pvc.claimName=,model.registry.url=s3://b/f": "model.registry.name",
    "tls.certManager.enabled=false": "tls.secrets.node",
    "tls.certManager.issuer.create=false": "issuer.name",
    "tls.clients={App}": "clients",
    "tls.certManager.duration=90d": "duration",
    "gateway.enabled=true": "gateway.keysSecret",
    "autoscaling.kind=vpa": "kind",
    "autoscaling.kind=keda,autoscaling.minReplicas=9": "minReplicas",
    "podDisruptionBudget.maxUnavailable=0": "maxUnavailable",
    "podDisruptionBudget.maxUnavailable=0%": "maxUnavailable",
    "monitoring.serviceMonitor.enabled=true": "node.metricsPort",
    "monitoring.serviceMonitor.enabled=true,gateway.enabled=true,gateway.keysSecret=k": "keySecret",
    "ray.enabled=true": "ray.image.tag",
    "ray.enabled=true,ray.image.tag=x,ray.rayVersion=2.60.0": "ray.model.id",
    f"{REPLICATED},node.enabled=false": "node.enabled",
    "node.enabled=false,autoscaling.kind=hpa": "no nodes to scale",
    "node.enabled=false,gateway.enabled=true,gateway.keysSecret=k": "gateway.config",
}
"""Values that are wrong -> what the message names."""


@pytest.mark.parametrize("sets", BAD)
def test_wrong_values_are_refused_and_the_message_names_them(sets: str) -> None:
    done = template("--values", str(FOLDER / "minimal.yaml"), "--set", sets)
    assert done.returncode != 0
    assert done.stdout == ""
    assert BAD[sets] in done.stderr
    assert "hunter2" not in done.stderr


def test_no_object_is_made_where_everything_is_switched_off() -> None:
    off = "node.enabled=false,networkPolicy.enabled=false,podDisruptionBudget.enabled=false,serviceAccount.create=false"
    done = template("--set", off, "--set", "tls.certManager.enabled=false")
    assert (done.returncode, done.stdout.strip()) == (0, "")


_USAGES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}


class CertManager:
    """Issues what a `Certificate` asks for, as cert-manager does with an issuer of the kind `ca`."""

    def __init__(self, name: str = "authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._builder(self.name, self.key, ca=True).sign(self.key, hashes.SHA256())

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(days=1))
        return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)

    def issue(self, spec: Object) -> dict[str, bytes]:
        """The data of the secret."""
        assert spec["privateKey"] | {"rotationPolicy": ""} == {
            "algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "",
        }  # fmt: skip
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])])
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in spec.get("dnsNames", ())]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in spec.get("ipAddresses", ())]
        names += [x509.UniformResourceIdentifier(each) for each in spec["uris"]]
        usages = [_USAGES[each] for each in spec["usages"] if each in _USAGES]
        builder = self._builder(name, key, ca=False).add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False).sign(
            self.key, hashes.SHA256()
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = [each.public_bytes(serialization.Encoding.PEM) for each in (certificate, self.certificate)]
        return {"tls.crt": pem[0], "tls.key": private, "ca.crt": pem[1]}


def mounted(objects: tuple[Object, ...], component: str, secrets: dict[str, dict[str, bytes]], folder: Path) -> Path:
    """The files of the volume `tls` of a workload, as the kubelet lays them."""
    folder.mkdir()
    (volume,) = [
        volume
        for each in workloads(objects)
        if each["metadata"]["name"].endswith(component)
        for volume in each["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "tls"
    ]
    for source in volume["projected"]["sources"]:
        for item in source["secret"]["items"]:
            (folder / item["path"]).write_bytes(secrets[source["secret"]["name"]][item["key"]])
    return folder


def test_the_certificates_that_the_chart_asks_for_let_probes_gateways_and_apps_call_a_node(tmp_path: Path) -> None:
    objects = rendered(FOLDER / "autoscaled.yaml")
    issuer = CertManager()
    secrets = {
        each["spec"]["secretName"]: issuer.issue(each["spec"])
        for each in of_kind(objects, "Certificate")
        if not each["spec"].get("isCA")
    }
    node_files = mounted(objects, "-node", secrets, tmp_path / "node")
    gateway_files = mounted(objects, "-gateway", secrets, tmp_path / "gateway")
    with fakes.Node(TLSFiles.from_dir(node_files, "node")) as node:
        for folder, name in ((node_files, "probe"), (gateway_files, "gateway")):
            check_node(GrpcConfig(target=node.target, tls=TLSFiles.from_dir(folder, name)), timeout=10)
        service = "llm-hybrid-llm-nodes.llm.svc"
        app = {name: (tmp_path / name) for name in ("ca.crt", "tls.crt", "tls.key")}
        for name, path in app.items():
            path.write_bytes(secrets["llm-hybrid-llm-client-app"][name])
        tls = TLSFiles(ca=app["ca.crt"], cert=app["tls.crt"], key=app["tls.key"])
        check_node(GrpcConfig(target=node.target, tls=tls, server_name=service), timeout=10)


def test_a_certificate_of_another_authority_opens_nothing(tmp_path: Path) -> None:
    objects = rendered(FOLDER / "minimal.yaml")
    asked = [each["spec"] for each in of_kind(objects, "Certificate") if not each["spec"].get("isCA")]
    issuer, foreign = CertManager(), CertManager("another")
    secrets = {spec["secretName"]: issuer.issue(spec) for spec in asked}
    files = mounted(objects, "-node", secrets, tmp_path / "node")
    probe = foreign.issue(next(spec for spec in asked if spec["commonName"] == "probe"))
    (files / "probe.pem").write_bytes(probe["tls.crt"])
    (files / "probe.key").write_bytes(probe["tls.key"])
    (files / "foreign.pem").write_bytes(probe["ca.crt"] + secrets[asked[0]["secretName"]]["ca.crt"])
    tls = TLSFiles(ca=files / "foreign.pem", cert=files / "probe.pem", key=files / "probe.key")
    with fakes.Node(TLSFiles.from_dir(files, "node")) as node, pytest.raises(AuthenticationFailed):
        check_node(GrpcConfig(target=node.target, tls=tls), timeout=10)


def test_helm_is_the_real_one() -> None:
    done = subprocess.run([str(helm()), "version", "--short"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("v")
