{{/* Name of all resources. */}}
{{- define "phoenix.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if has .Release.Name (list "phoenix" "phoenix-operator") -}}
phoenix-operator
{{- else -}}
{{- printf "%s-phoenix-operator" (.Release.Name | trunc 35 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods. They can never change. */}}
{{- define "phoenix.selector" -}}
app.kubernetes.io/name: phoenix
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of everything. */}}
{{- define "phoenix.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "phoenix.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "phoenix.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "phoenix.name" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* Reference to the image: by digest where one is given. */}}
{{- define "phoenix.image" -}}
{{- $image := .Values.image -}}
{{- $name := $image.repository -}}
{{- with $image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Namespaces that get the features, as JSON. */}}
{{- define "phoenix.featureNamespaces" -}}
{{- .Values.features.namespaces | default .Values.namespaces | default (list .Release.Namespace) | uniq | toJson -}}
{{- end -}}
