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

{{/* The Lease by which the replicas agree who of them writes to the cluster. */}}
{{- define "tidegate.lease" -}}
{{- include "tidegate.fullname" . }}-leader
{{- end -}}

{{/* Which capabilities the container gets back after all were dropped: those of ports below 1024, and of the node plane. */}}
{{- define "tidegate.capabilities" -}}
{{- $added := list -}}
{{- $ports := list .Values.ports.http .Values.ports.https .Values.ports.admin -}}
{{- if .Values.metrics.enabled -}}
{{- $ports = append $ports .Values.metrics.port -}}
{{- end -}}
{{- $isLow := .Values.node.enabled -}}
{{- range $ports -}}
{{- $isLow = or $isLow (lt (int .) 1024) -}}
{{- end -}}
{{- if $isLow -}}
{{- $added = append $added "NET_BIND_SERVICE" -}}
{{- end -}}
{{- if and .Values.node.enabled .Values.node.netAdmin -}}
{{- $added = append $added "NET_ADMIN" -}}
{{- end -}}
{{- toJson $added -}}
{{- end -}}

{{/* How pods are replaced. `given` is what the values say: what they leave out is 0 if they say the other, and all of it has a default. */}}
{{- define "tidegate.strategy" -}}
{{- $type := .given.type | default "RollingUpdate" -}}
type: {{ $type }}
{{- if eq $type "RollingUpdate" }}
{{- $default := .hostNetwork | ternary (dict "maxUnavailable" 1) (dict "maxSurge" 1) }}
{{- $rolling := .given.rollingUpdate | default $default }}
rollingUpdate:
  maxUnavailable: {{ hasKey $rolling "maxUnavailable" | ternary $rolling.maxUnavailable 0 }}
  maxSurge: {{ hasKey $rolling "maxSurge" | ternary $rolling.maxSurge 0 }}
{{- end }}
{{- end -}}

{{/* Of what Service the status of Ingresses shows the addresses, as NAMESPACE/NAME; empty if of none. */}}
{{- define "tidegate.publishService" -}}
{{- if and .Values.leaderElection.enabled .Values.publishStatus (not .Values.publishStatusAddresses) -}}
{{- if .Values.publishService -}}
{{- .Values.publishService -}}
{{- else if .Values.service.enabled -}}
{{- printf "%s/%s" .Release.Namespace (include "tidegate.fullname" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The command line. */}}
{{- define "tidegate.args" -}}
- run
- --kubernetes
- --http={{ .Values.listenAddress }}:{{ .Values.ports.http }}
- --https={{ .Values.listenAddress }}:{{ .Values.ports.https }}
- --admin={{ .Values.hostNetwork | ternary "127.0.0.1" .Values.listenAddress }}:{{ .Values.ports.admin }}
{{- if .Values.metrics.enabled }}
- --metrics={{ .Values.listenAddress }}:{{ .Values.metrics.port }}
{{- end }}
- --node-name=$(NODE_NAME)
- --controller-class={{ join "," .Values.ingressClass.controllers }}
- --ingress-class={{ prepend .Values.ingressClass.names .Values.ingressClass.name | uniq | join "," }}
{{- if .Values.ingressClass.watchWithoutClass }}
- --watch-ingress-without-class
{{- end }}
- --drain-timeout={{ .Values.shutdown.drainSeconds }}s
{{- with .Values.watchNamespaces }}
- --watch-namespace={{ join "," . }}
{{- end }}
{{- if and .Values.leaderElection.enabled .Values.publishStatus .Values.publishStatusAddresses }}
- --publish-status-address={{ join "," .Values.publishStatusAddresses }}
{{- end }}
{{- with include "tidegate.publishService" . }}
{{- $service := splitList "/" . }}
- --publish-service={{ eq (first $service) $.Release.Namespace | ternary "$(POD_NAMESPACE)" (first $service) }}/{{ last $service }}
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
- --leader-election-id={{ .Values.leaderElection.enabled | ternary (include "tidegate.lease" .) "off" }}
{{- if .Values.cache.enabled }}
- --cache-dir=/var/cache/tidegate
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
