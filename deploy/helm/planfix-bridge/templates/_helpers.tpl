{{- define "bridge.name" -}}
{{- printf "%s" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: planfix-bridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bridge.labels" -}}
{{ include "bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The settings file: the user's, listening inside the pod, the admin port guarded by ADMIN_TOKEN. */}}
{{- define "bridge.config" -}}
{{- $inside := dict "server" (dict "host" "0.0.0.0" "port" 8080) "admin" (dict "host" "0.0.0.0" "port" 8081 "token" "${ADMIN_TOKEN}") -}}
{{- mergeOverwrite (deepCopy .Values.config) $inside | toYaml -}}
{{- end -}}
