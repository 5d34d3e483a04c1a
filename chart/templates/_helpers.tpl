{{/* Names. Names of cluster-wide objects contain the namespace, so that equal releases in two namespaces do not collide. */}}
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
{{- $registry := coalesce .Values.global.registry .Values.image.registry }}
{{- include "akv-secret-store.reference" (dict "image" .Values.image "registry" $registry "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "akv-secret-store.testImage" -}}
{{- $registry := coalesce .Values.global.registry .Values.test.image.registry .Values.image.registry }}
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

{{/* The chart's own take precedence over the user's, so that no value can break a selector. */}}
{{- define "akv-secret-store.labels" -}}
{{- merge (include "akv-secret-store.ownLabels" . | fromYaml) .Values.commonLabels .Values.global.labels | toYaml }}
{{- end }}

{{/* The annotations and labels of an object without others. */}}
{{- define "akv-secret-store.annotationsAndLabels" -}}
{{- include "akv-secret-store.annotationsAndMore" (dict "root" . "labels" dict) }}
{{- end }}

{{/* The same with more `labels` of the chart, which take precedence over the user's, too. */}}
{{- define "akv-secret-store.annotationsAndMore" -}}
{{- with .root.Values.commonAnnotations }}annotations:
  {{- toYaml . | nindent 2 }}
{{ end }}labels:
  {{- merge .labels (include "akv-secret-store.labels" .root | fromYaml) | toYaml | nindent 2 }}
{{- end }}

{{- define "akv-secret-store.podLabels" -}}
{{- $ours := include "akv-secret-store.ownLabels" . | fromYaml }}
{{- $_ := set $ours "app.kubernetes.io/component" "controller" }}
{{- merge $ours .Values.podLabels .Values.commonLabels .Values.global.labels | toYaml }}
{{- end }}

{{/* The topology of the controller's pods. By default they are spread over nodes, because two on one node fail together. */}}
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
{{- $annotations := merge (deepCopy .Values.deploymentAnnotations) .Values.commonAnnotations }}
{{- with include "akv-secret-store.arc" . | fromYaml }}
{{- $_ := set $annotations "akv-secret-store/azure-arc" (toJson .) }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* A changed file or proxy restarts the pod, because it reads them once. */}}
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

{{/* The same for a value whose default is true. A null means the default. */}}
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

{{/* The excluded namespaces. A namespace in watchNamespaces is served nevertheless. */}}
{{- define "akv-secret-store.excluded" -}}
{{- $served := include "akv-secret-store.namespaces" . | fromJsonArray }}
{{- $left := list }}
{{- range include "akv-secret-store.list" .Values.validatingAdmissionPolicies.excludedNamespaces | fromJsonArray }}
{{- if not (has . $served) }}{{ $left = append $left . }}{{ end }}
{{- end }}
{{- toJson $left }}
{{- end }}

{{/*
The ServiceAccounts whose tokens the controller may ask for: whether they are limited, those named for every namespace,
and those of one namespace by its name. That of the sample of helm test is among them.
*/}}
{{- define "akv-secret-store.tokenAccounts" -}}
{{- $listed := include "akv-secret-store.list" .Values.tokenRequest.serviceAccounts | fromJsonArray }}
{{- $served := include "akv-secret-store.namespaces" . | fromJsonArray }}
{{- $names := list }}
{{- $places := dict }}
{{- $all := $listed }}
{{- if and $listed (include "akv-secret-store.test" .) }}
{{- $all = append $all (printf "%s/%s" (include "akv-secret-store.testNamespace" .) (include "akv-secret-store.testAccount" .)) }}
{{- end }}
{{- range $all }}
{{- $parts := splitList "/" . }}
{{- if eq (len $parts) 1 }}
{{- $names = append $names . | uniq }}
{{- else if and $served (not (has (first $parts) $served)) }}
{{- fail (printf "tokenRequest.serviceAccounts: %s is in a namespace that watchNamespaces leaves out; add the namespace there, or remove the entry" .) }}
{{- else }}
{{- $_ := set $places (first $parts) (append (default list (get $places (first $parts))) (last $parts) | uniq) }}
{{- end }}
{{- end }}
{{- toJson (dict "limited" (not (empty $listed)) "names" $names "places" $places) }}
{{- end }}

{{/* helm test: the name of its objects, the namespace of its sample, and whether it runs its own vault. */}}
{{- define "akv-secret-store.testName" -}}
{{- printf "%s-test" (include "akv-secret-store.fullname" .) }}
{{- end }}

{{- define "akv-secret-store.testAccount" -}}
{{- default (printf "%s-sample" (include "akv-secret-store.fullname" .)) .Values.test.sample.serviceAccount }}
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

{{/* Whether admission policies are rendered: enabled, and supported by the API server. */}}
{{- define "akv-secret-store.policies" -}}
{{- if include "akv-secret-store.on" .Values.validatingAdmissionPolicies.applyPolicies }}
{{- include "akv-secret-store.policiesServed" . }}
{{- end }}
{{- end }}

{{/* The proxy and certificates: the user's values, or else Azure Arc's. */}}
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

{{/* Certificates as PEM, from PEM or its base64. */}}
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

{{/* Azure Arc's description of the cluster and the extension, without parts that other values have. */}}
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

{{/* Logs to a collector: whether enabled, and the names of the certificate and of the bundle, which has no namespace. */}}
{{- define "akv-secret-store.logs" -}}
{{- include "akv-secret-store.true" .Values.logs.otlp.enabled }}
{{- end }}

{{- define "akv-secret-store.logsName" -}}
{{- printf "%s-logs" (include "akv-secret-store.fullname" .) }}
{{- end }}

{{- define "akv-secret-store.logsBundle" -}}
{{- /* trust-manager uses it as a label's value, which has at most 63 characters. */ -}}
{{- $name := include "akv-secret-store.fullname" . | trunc 49 | trimSuffix "-" }}
{{- printf "%s-logs-%s" $name (include "akv-secret-store.globalName" . | sha256sum | trunc 8) }}
{{- end }}

{{/* Whether the API server has a kind, by its renderMode; `instead` is an alternative. */}}
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

{{/* A securityContext whose numbers and booleans can be strings. */}}
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
{{- with default .Values.global.priorityClassName .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with merge (deepCopy .Values.nodeSelector) .Values.global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .Values.tolerations .Values.global.tolerations | uniq }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Leader election. With a single pod, no other can take over, so it can renew its Lease more rarely. */}}
{{- define "akv-secret-store.leaseDuration" -}}
{{- int64 .Values.leaderElection.leaseDurationInSeconds | default (ternary 60 15 (eq (int64 .Values.replicaCount) 1)) }}
{{- end }}

{{- define "akv-secret-store.leaseRenewInterval" -}}
{{- $duration := include "akv-secret-store.leaseDuration" . | int64 }}
{{- $usual := ternary (div $duration 4) (div (mul 2 $duration) 15) (eq (int64 .Values.replicaCount) 1) }}
{{- int64 .Values.leaderElection.renewIntervalInSeconds | default (max 1 $usual) }}
{{- end }}
