{{/* Name of the operator's objects: the release's name. */}}
{{- define "brainy-operator.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "brainy-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "brainy-operator.name" .) -}}
{{- end }}

{{/* What selects the operator's pods. Never changes. */}}
{{- define "brainy-operator.selector" -}}
app.kubernetes.io/name: brainy-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "brainy-operator.labels" -}}
{{ include "brainy-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "brainy-operator.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end }}

{{/* All that the operator calls in the namespaces of BrainyClusters. */}}
{{- define "brainy-operator.rules" -}}
- apiGroups: [brainy.io]
  resources: [brainyclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [brainy.io]
  resources: [brainyclusters/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# update: the shard map is written by compare-and-swap. The nodes are granted get, list and watch.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, update]
# Read by name only: no list, no watch.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update]
# patch: a sidecar is changed where it runs.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The templates that pods were made from.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
# The nodes are granted get and patch: whoever grants must hold.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.certManager.enabled }}
# By name only; cert-manager itself writes their status, and the Secrets.
- apiGroups: [cert-manager.io]
  resources: [certificates, issuers]
  verbs: [get, create, patch, delete]
{{- end }}
{{- end }}
