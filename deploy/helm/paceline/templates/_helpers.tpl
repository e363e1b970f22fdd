{{- define "paceline.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "paceline.labels" -}}
{{ include "paceline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "paceline.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Whether the verifier itself speaks TLS: Envoy ends it where there is one. */ -}}
{{- define "paceline.speaksTls" -}}
{{- if and .Values.tls.enabled (not .Values.envoy.enabled) }}true{{ end -}}
{{- end -}}

{{- /* gRPC probes cannot speak TLS; the metrics port opens once the model is loaded. */ -}}
{{- define "paceline.probe" -}}
{{- if include "paceline.speaksTls" . -}}
httpGet: {path: /metrics, port: metrics}
{{- else -}}
grpc: {port: 7443}
{{- end -}}
{{- end -}}
