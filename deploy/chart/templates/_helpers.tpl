{{/* The name of everything. */}}
{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (.Values.nameOverride | default .Chart.Name) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (.Values.nameOverride | default .Chart.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What finds our pods. It never changes: the selector of a Deployment cannot. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "tidegate.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tidegate.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: name the ServiceAccount that is there, or set serviceAccount.create" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* Names of what belongs to no namespace carry it, so that two releases do not share them. */}}
{{- define "tidegate.clusterName" -}}
{{- if eq .Release.Namespace (include "tidegate.fullname" .) -}}
{{- include "tidegate.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "tidegate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Which capabilities the container gets back after all were dropped: those of ports below 1024, and of the node plane. */}}
{{- define "tidegate.capabilities" -}}
{{- $added := list -}}
{{- if or .Values.node.enabled (lt (int .Values.ports.http) 1024) (lt (int .Values.ports.https) 1024) -}}
{{- $added = append $added "NET_BIND_SERVICE" -}}
{{- end -}}
{{- if and .Values.node.enabled .Values.node.netAdmin -}}
{{- $added = append $added "NET_ADMIN" -}}
{{- end -}}
{{- toJson $added -}}
{{- end -}}

{{/* The command line. */}}
{{- define "tidegate.args" -}}
- run
- --kubernetes
- --http={{ .Values.listenAddress }}:{{ .Values.ports.http }}
- --https={{ .Values.listenAddress }}:{{ .Values.ports.https }}
- --admin={{ .Values.hostNetwork | ternary "127.0.0.1" .Values.listenAddress }}:{{ .Values.ports.admin }}
- --node-name=$(NODE_NAME)
- --controller-class={{ join "," .Values.ingressClass.controllers }}
- --ingress-class={{ .Values.ingressClass.name }}
- --drain-timeout={{ .Values.shutdown.drainSeconds }}s
{{- with .Values.watchNamespaces }}
- --watch-namespace={{ join "," . }}
{{- end }}
{{- if not .Values.leaderElection.enabled }}
{{- else if .Values.publishStatusAddresses }}
- --publish-status-address={{ join "," .Values.publishStatusAddresses }}
{{- else if .Values.publishService }}
- --publish-service={{ .Values.publishService }}
{{- else if .Values.service.enabled }}
- --publish-service=$(POD_NAMESPACE)/{{ include "tidegate.fullname" . }}
{{- end }}
{{- with .Values.defaultCertificate }}
- --default-ssl-certificate={{ . }}
{{- end }}
{{- with .Values.defaultBackend }}
- --default-backend-service={{ . }}
{{- end }}
{{- with .Values.trustedProxies }}
- --trusted-proxies={{ join "," . }}
{{- end }}
{{- if .Values.proxyProtocol }}
- --proxy-protocol
{{- end }}
{{- if .Values.accessLog }}
- --access-log=-
{{- end }}
{{- if .Values.node.enabled }}
- --node
{{- end }}
{{- if .Values.defaultLoadBalancer }}
- --default-load-balancer
{{- end }}
{{- if not .Values.leaderElection.enabled }}
- --leader-election-id=off
{{- end }}
{{- if .Values.cache.enabled }}
- --cache-dir=/var/cache/tidegate
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
