{{/* Names. Objects of the cluster carry the namespace too, so that equal releases of two namespaces do not meet. */}}
{{- define "akv-secret-store.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "akv-secret-store.fullname" -}}
{{- $name := include "akv-secret-store.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "akv-secret-store.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "akv-secret-store.globalName" -}}
{{- printf "%s.%s" (include "akv-secret-store.fullname" .) (include "akv-secret-store.namespace" .) }}
{{- end }}

{{- define "akv-secret-store.serviceAccountName" -}}
{{- if include "akv-secret-store.on" .Values.serviceAccount.create }}
{{- default (include "akv-secret-store.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "akv-secret-store.image" -}}
{{- include "akv-secret-store.reference" (dict "image" .Values.image "registry" .Values.image.registry "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "akv-secret-store.testImage" -}}
{{- $registry := default .Values.image.registry .Values.test.image.registry }}
{{- include "akv-secret-store.reference" (dict "image" .Values.test.image "registry" $registry "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "akv-secret-store.reference" -}}
{{- $name := .image.repository }}
{{- with .registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end }}
{{- if .image.digest }}
{{- printf "%s@%s" $name .image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .tag .image.tag) }}
{{- end }}
{{- end }}

{{/* Labels */}}
{{- define "akv-secret-store.selectorLabels" -}}
app.kubernetes.io/name: {{ include "akv-secret-store.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "akv-secret-store.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "akv-secret-store.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: akv-secret-store
{{- end }}

{{/* Ours go before what the user says, so that nothing can break a selector. */}}
{{- define "akv-secret-store.labels" -}}
{{- merge (include "akv-secret-store.ownLabels" . | fromYaml) .Values.commonLabels | toYaml }}
{{- end }}

{{- define "akv-secret-store.podLabels" -}}
{{- $ours := include "akv-secret-store.ownLabels" . | fromYaml }}
{{- $_ := set $ours "app.kubernetes.io/component" "controller" }}
{{- merge $ours .Values.podLabels .Values.commonLabels | toYaml }}
{{- end }}

{{/* How the controller's pods are spread: by themselves over nodes, for two on one node are lost together. */}}
{{- define "akv-secret-store.spread" -}}
{{- $labels := include "akv-secret-store.selectorLabels" . | fromYaml }}
{{- $ours := dict "matchLabels" (set $labels "app.kubernetes.io/component" "controller") }}
{{- $given := .Values.topologySpreadConstraints }}
{{- if and (not $given) (gt (int64 .Values.replicaCount) 1) }}
{{- $given = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- range $given }}
- {{- toYaml (ternary . (set (deepCopy .) "labelSelector" $ours) (hasKey . "labelSelector")) | nindent 2 }}
{{- end }}
{{- end }}

{{- define "akv-secret-store.deploymentAnnotations" -}}
{{- $annotations := deepCopy .Values.deploymentAnnotations }}
{{- with include "akv-secret-store.arc" . | fromYaml }}
{{- $_ := set $annotations "akv-secret-store/azure-arc" (toJson .) }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* A changed file or proxy rolls the pod: it reads them once. */}}
{{- define "akv-secret-store.podAnnotations" -}}
{{- $annotations := deepCopy .Values.podAnnotations }}
{{- range $name := list "files" "proxy" }}
{{- $content := include (printf "akv-secret-store.%s" $name) $ }}
{{- if $content | fromYaml }}
{{- $_ := set $annotations (printf "checksum/%s" $name) ($content | sha256sum) }}
{{- end }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Azure Arc passes every setting as a string: "false" is false, and a list is comma-separated. */}}
{{- define "akv-secret-store.true" -}}
{{- if eq (toString . | lower) "true" }}true{{ end }}
{{- end }}

{{/* The same of a value whose default is true: where it is null it has its default. */}}
{{- define "akv-secret-store.on" -}}
{{- if ne (toString . | lower) "false" }}true{{ end }}
{{- end }}

{{- define "akv-secret-store.list" -}}
{{- $items := list }}
{{- if kindIs "string" . }}
{{- range splitList "," . }}{{ with trim . }}{{ $items = append $items . }}{{ end }}{{ end }}
{{- else if . }}
{{- $items = . }}
{{- end }}
{{- toJson $items }}
{{- end }}

{{- define "akv-secret-store.namespaces" -}}
{{- include "akv-secret-store.list" .Values.watchNamespaces | fromJsonArray | uniq | toJson }}
{{- end }}

{{/* Where the controller writes nothing: a namespace that watchNamespaces names is served all the same. */}}
{{- define "akv-secret-store.excluded" -}}
{{- $served := include "akv-secret-store.namespaces" . | fromJsonArray }}
{{- $left := list }}
{{- range include "akv-secret-store.list" .Values.validatingAdmissionPolicies.excludedNamespaces | fromJsonArray }}
{{- if not (has . $served) }}{{ $left = append $left . }}{{ end }}
{{- end }}
{{- toJson $left }}
{{- end }}

{{/* helm test: the name of all that it makes, where its sample is, and whether it brings a vault of its own. */}}
{{- define "akv-secret-store.testName" -}}
{{- printf "%s-test" (include "akv-secret-store.fullname" .) }}
{{- end }}

{{- define "akv-secret-store.testNamespace" -}}
{{- $namespaces := include "akv-secret-store.namespaces" . | fromJsonArray }}
{{- $home := include "akv-secret-store.namespace" . }}
{{- if or (not $namespaces) (has $home $namespaces) }}{{ $home }}{{ else }}{{ first $namespaces }}{{ end }}
{{- end }}

{{- define "akv-secret-store.test" -}}
{{- if and (include "akv-secret-store.on" .Values.test.enabled) (include "akv-secret-store.on" .Values.rbac.create) }}true{{ end }}
{{- end }}

{{- define "akv-secret-store.testVault" -}}
{{- if and (include "akv-secret-store.test" .) (not .Values.test.sample.keyvaultName) }}true{{ end }}
{{- end }}

{{/* Whether admission policies are rendered: asked for, and known to the API server. */}}
{{- define "akv-secret-store.policies" -}}
{{- if include "akv-secret-store.on" .Values.validatingAdmissionPolicies.applyPolicies }}
{{- include "akv-secret-store.policiesServed" . }}
{{- end }}
{{- end }}

{{/* The way to the outside: what the user says, then what Azure Arc says. */}}
{{- define "akv-secret-store.proxy" -}}
{{- $said := dict }}
{{- $arc := .Values.Azure.proxySettings }}
{{- if include "akv-secret-store.true" $arc.isProxyEnabled }}
{{- $said = dict "HTTP_PROXY" $arc.httpProxy "HTTPS_PROXY" $arc.httpsProxy "NO_PROXY" $arc.noProxy }}
{{- end }}
{{- with .Values.proxy.http }}{{ $_ := set $said "HTTP_PROXY" . }}{{ end }}
{{- with .Values.proxy.https }}{{ $_ := set $said "HTTPS_PROXY" . }}{{ end }}
{{- with include "akv-secret-store.list" .Values.proxy.noProxy | fromJsonArray }}
{{- $_ := set $said "NO_PROXY" (join "," .) }}
{{- end }}
{{- range $name, $text := $said }}{{ if not $text }}{{ $_ := unset $said $name }}{{ end }}{{ end }}
{{- if or $said.HTTP_PROXY $said.HTTPS_PROXY }}{{ toYaml $said }}{{ end }}
{{- end }}

{{/* Certificates as PEM, from that or its base64. */}}
{{- define "akv-secret-store.pem" -}}
{{- $text := trim .text }}
{{- if and $text (not (contains "-----BEGIN CERTIFICATE-----" $text)) }}
{{- $text = regexReplaceAll "\\s" $text "" | b64dec | trim }}
{{- if not (contains "-----BEGIN CERTIFICATE-----" $text) }}
{{- fail (printf "%s: expected certificates, as PEM (-----BEGIN CERTIFICATE-----) or its base64" .path) }}
{{- end }}
{{- end }}
{{- $text }}
{{- end }}

{{- define "akv-secret-store.ca" -}}
{{- $own := include "akv-secret-store.pem" (dict "text" .Values.caBundle "path" "caBundle") }}
{{- $arc := include "akv-secret-store.pem" (dict "text" .Values.Azure.proxySettings.proxyCert "path" "Azure.proxySettings.proxyCert") }}
{{- compact (list $own $arc) | join "\n" }}
{{- end }}

{{/* What Azure Arc says of the cluster and the extension, without what stands elsewhere. */}}
{{- define "akv-secret-store.arc" -}}
{{- $said := dict }}
{{- $proxy := pick .Values.Azure.proxySettings "isCustomCert" "autonomousFqdn" }}
{{- range $group, $entries := set (deepCopy .Values.Azure) "proxySettings" $proxy }}
{{- if kindIs "map" $entries }}
{{- range $name, $text := $entries }}
{{- if not (has (toString $text | lower) (list "" "false")) }}
{{- $_ := set $said (printf "%s.%s" $group $name) (toString $text) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $said }}
{{- end }}

{{/* Logs to a collector: whether, and the names of the certificate and of the bundle, which belongs to no namespace. */}}
{{- define "akv-secret-store.logs" -}}
{{- include "akv-secret-store.true" .Values.logs.otlp.enabled }}
{{- end }}

{{- define "akv-secret-store.logsName" -}}
{{- printf "%s-logs" (include "akv-secret-store.fullname" .) }}
{{- end }}

{{- define "akv-secret-store.logsBundle" -}}
{{- /* trust-manager makes it a label's value, which has 63 characters at most. */ -}}
{{- $name := include "akv-secret-store.fullname" . | trunc 49 | trimSuffix "-" }}
{{- printf "%s-logs-%s" $name (include "akv-secret-store.globalName" . | sha256sum | trunc 8) }}
{{- end }}

{{/* Whether the API server has a kind, by its renderMode; `instead` is a way to do without. */}}
{{- define "akv-secret-store.served" -}}
{{- if or (eq .renderMode "alwaysRender") (.root.Capabilities.APIVersions.Has .kind) }}true
{{- else if eq .renderMode "failIfMissing" }}
{{- fail (printf "%s: the cluster does not serve %s, %s's; install that first, %sor set %s.renderMode to skipIfMissing, or to alwaysRender where no cluster is asked" .wanted .kind .whose .instead .path) }}
{{- end }}
{{- end }}

{{- define "akv-secret-store.renders" -}}
{{- if include "akv-secret-store.true" .value.enabled }}
{{- include "akv-secret-store.served" (dict "root" .root "kind" .kind "path" .path "renderMode" .value.renderMode "wanted" (printf "%s.enabled" .path) "whose" "the Prometheus Operator" "instead" "") }}
{{- end }}
{{- end }}

{{- define "akv-secret-store.openshift" -}}
{{- if or (.Capabilities.APIVersions.Has "security.openshift.io/v1") (eq (lower .Values.Azure.Cluster.Distribution) "openshift") }}true{{ end }}
{{- end }}

{{/* A securityContext whose numbers and truths may have come as strings. */}}
{{- define "akv-secret-store.security" -}}
{{- $given := deepCopy . }}
{{- range $key, $text := . }}
{{- if kindIs "string" $text }}
{{- if regexMatch "^[0-9]+$" $text }}{{ $_ := set $given $key (int64 $text) }}{{ end }}
{{- if has (lower $text) (list "true" "false") }}{{ $_ := set $given $key (eq (lower $text) "true") }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $given }}
{{- end }}

{{- define "akv-secret-store.podSecurity" -}}
{{- $given := deepCopy .Values.podSecurityContext }}
{{- if include "akv-secret-store.openshift" . }}
{{- range list "runAsUser" "runAsGroup" }}
{{- if eq (get $given . | toString) "65532" }}{{ $_ := unset $given . }}{{ end }}
{{- end }}
{{- end }}
{{- include "akv-secret-store.security" $given }}
{{- end }}

{{- define "akv-secret-store.imagePullSecrets" -}}
{{- concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq | toYaml }}
{{- end }}

{{/* Pods */}}
{{- define "akv-secret-store.pod" -}}
enableServiceLinks: false
{{- with include "akv-secret-store.podSecurity" . | fromYaml }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "akv-secret-store.imagePullSecrets" . | fromYamlArray }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
