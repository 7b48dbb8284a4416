{{- define "hybrid-llm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "hybrid-llm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "hybrid-llm.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "hybrid-llm.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of everything. */}}
{{- define "hybrid-llm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "hybrid-llm.selector" . }}
{{- end -}}

{{- define "hybrid-llm.selector" -}}
app.kubernetes.io/name: {{ include "hybrid-llm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hybrid-llm.serviceAccount" -}}
{{- default (ternary (include "hybrid-llm.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The reference of an image: (dict "image" VALUES "root" $). A digest comes before a tag. */}}
{{- define "hybrid-llm.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "hybrid-llm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "hybrid-llm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The secret of a certificate: (dict "name" "node" "root" $). */}}
{{- define "hybrid-llm.secret" -}}
{{- $given := get .root.Values.tls.secrets .name -}}
{{- if $given -}}
{{ $given }}
{{- else -}}
{{ include "hybrid-llm.fullname" .root }}-{{ .name }}-tls
{{- end -}}
{{- end -}}

{{/* The names of the nodes, for their certificate. */}}
{{- define "hybrid-llm.nodeHosts" -}}
{{- $name := include "hybrid-llm.fullname" . -}}
{{- $hosts := list "localhost" -}}
{{- range $service := list (printf "%s-node" $name) (printf "%s-nodes" $name) -}}
{{- $hosts = concat $hosts (list $service (printf "%s.%s" $service $.Release.Namespace) (printf "%s.%s.svc" $service $.Release.Namespace) (printf "%s.%s.svc.cluster.local" $service $.Release.Namespace)) -}}
{{- end -}}
{{- toYaml (concat $hosts .Values.tls.hosts) -}}
{{- end -}}

{{- define "hybrid-llm.issuer" -}}
name: {{ default (printf "%s-ca" (include "hybrid-llm.fullname" .)) .Values.tls.certManager.issuer.name }}
kind: {{ .Values.tls.certManager.issuer.kind }}
group: {{ .Values.tls.certManager.issuer.group }}
{{- end -}}

{{/* What values.schema.json cannot say. */}}
{{- define "hybrid-llm.validate" -}}
{{- with .Values -}}
{{- $sources := compact (list .model.pvc.claimName .model.url .model.registry.url) -}}
{{- if and .node.enabled (ne (len $sources) 1) -}}
{{- fail "model: name one source, model.pvc.claimName, model.url or model.registry.url" -}}
{{- end -}}
{{- if contains "@" .model.url -}}
{{- fail "model.url: credentials are no part of it; name them in model.env or model.envFrom" -}}
{{- end -}}
{{- if and .model.registry.url (not .model.registry.name) -}}
{{- fail "model.registry.name: name the model, such as smollm2@prod" -}}
{{- end -}}
{{- if and (or .model.trust.identity .model.trust.publicKey) (not .model.trust.secret) -}}
{{- fail "model.trust: identity and publicKey need trust.secret, which has the authority or the key of the signer" -}}
{{- end -}}
{{- if and .model.trust.identity .model.trust.publicKey -}}
{{- fail "model.trust.identity: it is of a certificate; a publicKey has none" -}}
{{- end -}}
{{- if and .node.enabled (not .tls.certManager.enabled) (not (and .tls.secrets.node .tls.secrets.probe)) -}}
{{- fail "tls: without cert-manager, name tls.secrets.node and tls.secrets.probe" -}}
{{- end -}}
{{- if and .tls.certManager.enabled (not .tls.certManager.issuer.create) (not .tls.certManager.issuer.name) -}}
{{- fail "tls.certManager.issuer.name: name the issuer, or let create be true" -}}
{{- end -}}
{{- range $key, $source := dict "node.rightsFrom" .node.rightsFrom "tls.revocationList" .tls.revocationList "gateway.policyFrom" .gateway.policyFrom "gateway.rightsFrom" .gateway.rightsFrom -}}
{{- if and $source.configMap $source.secret -}}
{{- fail (printf "%s: name configMap or secret, not both" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .node.rights (include "hybrid-llm.source" .node.rightsFrom) -}}
{{- fail "node.rightsFrom: the rights are in node.rights already; keep one of both" -}}
{{- end -}}
{{- range $key, $store := dict "node.quotas" .node.quotas "node.audit" .node.audit -}}
{{- if gt (len (compact (list (ternary "file" "" $store.file) $store.url $store.urlSecret.name))) 1 -}}
{{- fail (printf "%s: name one of file, url and urlSecret" $key) -}}
{{- end -}}
{{- if regexMatch "://[^/]*:[^/]*@|@.*@|[?&][a-z]*password=" $store.url -}}
{{- fail (printf "%s.url: a password would stand in the pod and in the release; put the URL into a secret, and name that as urlSecret" $key) -}}
{{- end -}}
{{- if and $store.file (not $.Values.node.state.claim) -}}
{{- fail (printf "%s.file: it would end with its pod; set node.state.claim, or name a url" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .node.state.claim (ne .node.kind "StatefulSet") -}}
{{- fail "node.state.claim: a volume for each pod needs node.kind: StatefulSet" -}}
{{- end -}}
{{- if and (include "hybrid-llm.quotas" $) (not (or .node.rights (include "hybrid-llm.source" .node.rightsFrom))) -}}
{{- fail "node.quotas: the limits are in the rights file; set node.rights or node.rightsFrom" -}}
{{- end -}}
{{- if and .node.sealed.only (not .node.sealed.secret) -}}
{{- fail "node.sealed.only: it needs node.sealed.secret, the sealing keys" -}}
{{- end -}}
{{- if and (or .node.engine.python .node.engine.options) (ne .node.engine.name "vllm") -}}
{{- fail "node.engine: python and options are of the engine vllm" -}}
{{- end -}}
{{- if and .model.adapters .model.registry.url (ne .model.fetch "serve") -}}
{{- fail "model.adapters: an init container fetches the model alone; set model.fetch: serve" -}}
{{- end -}}
{{- if and (include "hybrid-llm.audit" $) (not .node.audit.keySecret) -}}
{{- fail "node.audit.keySecret: name a secret with audit.key, which signs the log" -}}
{{- end -}}
{{- if and .gateway.enabled (not .gateway.keysSecret) -}}
{{- fail "gateway.keysSecret: other machines reach a gateway, so it needs a secret with keys.json" -}}
{{- end -}}
{{- if and .gateway.enabled (not .gateway.config) (not .node.enabled) -}}
{{- fail "gateway.config: without nodes of this chart, say which backends there are" -}}
{{- end -}}
{{- if and .gateway.enabled .node.enabled (not .tls.certManager.enabled) (not .tls.secrets.gateway) -}}
{{- fail "tls.secrets.gateway: without cert-manager, name the gateway's client certificate" -}}
{{- end -}}
{{- if and (ne .autoscaling.kind "none") (not .node.enabled) -}}
{{- fail "autoscaling: there are no nodes to scale; let node.enabled be true" -}}
{{- end -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas: it is above maxReplicas" -}}
{{- end -}}
{{- if and .monitoring.serviceMonitor.enabled (not (or .gateway.enabled .node.metricsPort)) -}}
{{- fail "monitoring.serviceMonitor: there is nothing to scrape; set node.metricsPort, or let gateway.enabled be true" -}}
{{- end -}}
{{- if and .monitoring.serviceMonitor.enabled .gateway.enabled (not .monitoring.serviceMonitor.keySecret.name) -}}
{{- fail "monitoring.serviceMonitor.keySecret.name: a gateway asks for a key; name a secret that holds one" -}}
{{- end -}}
{{- if and .ray.enabled (not (and .ray.image.tag .ray.rayVersion)) -}}
{{- fail "ray: name ray.image.tag and the ray.rayVersion that the image holds" -}}
{{- end -}}
{{- if include "hybrid-llm.replicated" $ -}}
{{- if or .model.adapters .node.engine.name -}}
{{- fail "ray: replicas serve no model.adapters, and node.engine.name is ray by itself" -}}
{{- end -}}
{{- if not (and .node.enabled .model.pvc.claimName) -}}
{{- fail "ray: replicas of our engine read the model from model.pvc, and nodes are their front: set node.enabled" -}}
{{- end -}}
{{- else if and .ray.enabled (not .ray.model.id) -}}
{{- fail "ray: name ray.model.id, under which apps ask for the model" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the nodes are a front before replicas of our engine in Ray Serve. */}}
{{- define "hybrid-llm.replicated" -}}
{{- if and .Values.ray.enabled (hasPrefix "hybrid_llm." .Values.ray.importPath) -}}true{{- end -}}
{{- end -}}

{{/* The body of a volume with the files of a source, {configMap, secret, file}; the kubelet changes it as a whole. Empty for none. */}}
{{- define "hybrid-llm.source" -}}
{{- if .configMap -}}
configMap: {name: {{ .configMap }}, defaultMode: 0440}
{{- else if .secret -}}
secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end -}}
{{- end -}}

{{/* What a node takes for --quotas and --audit: a file of its own, a URL, or a file of a secret that holds one. Empty for none. */}}
{{- define "hybrid-llm.quotas" -}}
{{- with .Values.node.quotas -}}
{{- if .file -}}/var/lib/hybrid-llm/quotas.db{{- else if .urlSecret.name -}}file:/databases/quotas{{- else -}}{{ .url }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "hybrid-llm.audit" -}}
{{- with .Values.node.audit -}}
{{- if .file -}}/var/lib/hybrid-llm/audit.db{{- else if .urlSecret.name -}}file:/databases/audit{{- else -}}{{ .url }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The sources of the volume with the URLs of databases. Empty for none. */}}
{{- define "hybrid-llm.databases" -}}
{{- range $path, $from := dict "quotas" .Values.node.quotas.urlSecret "audit" .Values.node.audit.urlSecret -}}
{{- if $from.name }}
- secret: {name: {{ $from.name }}, items: [{key: {{ $from.key }}, path: {{ $path }}}]}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether the nodes fetch the model themselves. */}}
{{- define "hybrid-llm.fetches" -}}
{{- with .Values.model -}}
{{- if or .url (and .registry.url (eq .fetch "serve")) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes, such as 20Gi, in GB. */}}
{{- define "hybrid-llm.gigabytes" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "Ki" 1024.0 "M" 1e6 "Mi" 1048576.0 "G" 1e9 "Gi" 1073741824.0 "T" 1e12 "Ti" 1099511627776.0 -}}
{{- $unit := regexFind "[a-zA-Z]*$" (toString .) -}}
{{- printf "%.3f" (divf (mulf (float64 (trimSuffix $unit (toString .))) (get $units $unit)) 1e9) -}}
{{- end -}}

{{/* Options of `models pull` and `serve` for a registry. */}}
{{- define "hybrid-llm.registry" -}}
{{- with .Values.model.registry -}}
{{- if .url -}}
- --registry
- {{ .url | quote }}
{{- if .keySecret.name }}
- --key-file
- /registry/{{ .keySecret.key }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Options of `models pull` and `serve` for whose signature counts. */}}
{{- define "hybrid-llm.trust" -}}
{{- with .Values.model.trust -}}
{{- if and .secret .publicKey -}}
- --public-key
- /trust/{{ .publicKey }}
{{- else if .secret -}}
- --ca
- /trust/{{ .key }}
{{- with .identity }}
- --identity
- {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
