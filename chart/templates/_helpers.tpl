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

{{- define "akv-secret-store.globalName" -}}
{{- printf "%s.%s" (include "akv-secret-store.fullname" .) .Release.Namespace }}
{{- end }}

{{- define "akv-secret-store.serviceAccountName" -}}
{{- if include "akv-secret-store.true" .Values.serviceAccount.create }}
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

{{- define "akv-secret-store.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "akv-secret-store.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: akv-secret-store
{{- end }}

{{/* What the user says of the pod goes first, so that nothing can break the selector. */}}
{{- define "akv-secret-store.podLabels" -}}
{{- $ours := include "akv-secret-store.labels" . | fromYaml }}
{{- $_ := set $ours "app.kubernetes.io/component" "controller" }}
{{- merge $ours (deepCopy .Values.podLabels) | toYaml }}
{{- end }}

{{/* A changed cloud rolls the pod: it reads the file once. */}}
{{- define "akv-secret-store.podAnnotations" -}}
{{- $annotations := deepCopy .Values.podAnnotations }}
{{- if .Values.clouds }}
{{- $_ := set $annotations "checksum/clouds" (toJson .Values.clouds | sha256sum) }}
{{- end }}
{{- with $annotations }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Azure Arc passes every setting as a string: "false" is false, and a list is comma-separated. */}}
{{- define "akv-secret-store.true" -}}
{{- if eq (toString . | lower) "true" }}true{{ end }}
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

{{/* helm test: the name of all that it makes, where its sample is, and whether it brings a vault of its own. */}}
{{- define "akv-secret-store.testName" -}}
{{- printf "%s-test" (include "akv-secret-store.fullname" .) }}
{{- end }}

{{- define "akv-secret-store.testNamespace" -}}
{{- $namespaces := include "akv-secret-store.namespaces" . | fromJsonArray }}
{{- if or (not $namespaces) (has .Release.Namespace $namespaces) }}{{ .Release.Namespace }}{{ else }}{{ first $namespaces }}{{ end }}
{{- end }}

{{- define "akv-secret-store.testVault" -}}
{{- if and (include "akv-secret-store.true" .Values.test.enabled) (not .Values.test.sample.keyvaultName) }}true{{ end }}
{{- end }}

{{/* Whether admission policies are rendered: asked for, and known to the API server. */}}
{{- define "akv-secret-store.policies" -}}
{{- if include "akv-secret-store.true" .Values.validatingAdmissionPolicies.applyPolicies }}
{{- include "akv-secret-store.policiesServed" . }}
{{- end }}
{{- end }}

{{/* Pods */}}
{{- define "akv-secret-store.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
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

{{- define "akv-secret-store.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
