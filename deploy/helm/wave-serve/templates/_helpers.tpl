{{/* Names, labels and what several templates need alike. */}}

{{- define "wave-serve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "wave-serve.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "wave-serve.selector" . }}
{{- end -}}

{{/* Without a component: both. */}}
{{- define "wave-serve.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "wave-serve.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "wave-serve.engine.image" -}}
{{- $own := .Values.engine.image -}}
{{- $suffix := ternary "-gpu" "" (eq .Values.engine.accelerator "gpu") -}}
{{- $tag := default (printf "%s%s" (default .Chart.AppVersion .Values.image.tag) $suffix) $own.tag -}}
{{- printf "%s:%s" (default .Values.image.repository $own.repository) $tag -}}
{{- end -}}

{{- define "wave-serve.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "wave-serve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "wave-serve.pod.security" -}}
runAsNonRoot: true
runAsUser: 2000
runAsGroup: 2000
fsGroup: 2000
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "wave-serve.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the engine finds the model. */}}
{{- define "wave-serve.model.path" -}}
{{- if eq .Values.model.source "image" -}}
{{- default "/srv/wave-demo" .Values.model.path -}}
{{- else -}}
{{- printf "/models/%s" .Values.model.path | trimSuffix "/" -}}
{{- end -}}
{{- end -}}

{{/* Whether the gateways mount the model's volume, for its tokenizer. */}}
{{- define "wave-serve.gateway.mounts-model" -}}
{{- if and .Values.engine.enabled (eq .Values.model.source "claim") .Values.model.claim.gateway -}}true{{- end -}}
{{- end -}}

{{/* What is known of the model without being told. */}}
{{- define "wave-serve.model.known" -}}
{{- if and (eq .Values.model.source "image") (not .Values.model.path) -}}
train_length: 512
validated_length: 16384
tokenizer: /srv/wave-demo/tokenizer.json
vocab_size: 4096
{{- else if include "wave-serve.gateway.mounts-model" . -}}
tokenizer: {{ include "wave-serve.model.path" . }}/tokenizer.json
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{- define "wave-serve.engine.host" -}}
{{- default (printf "%s-engine.%s.svc.%s" (include "wave-serve.fullname" .) .Release.Namespace .Values.clusterDomain) .Values.discovery.host -}}
{{- end -}}

{{- define "wave-serve.keys.secret" -}}
{{- if .Values.auth.existingSecret -}}
{{- .Values.auth.existingSecret -}}
{{- else if .Values.auth.keysFile -}}
{{- printf "%s-keys" (include "wave-serve.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The gateway's settings file. What the chart sets wins over `settings`, which the schema keeps from naming it. */}}
{{- define "wave-serve.settings" -}}
{{- $upstreams := list -}}
{{- if and .Values.engine.enabled .Values.discovery.enabled -}}
{{- $engine := dict "dns" (printf "http://%s:%d" (include "wave-serve.engine.host" .) (int .Values.engine.port)) "models" (list .Values.model.name) -}}
{{- if .Values.engine.apiKeySecret.name -}}
{{- $_ := set $engine "api_key" "env:WAVE_SERVE_ENGINE_KEY" -}}
{{- end -}}
{{- $upstreams = append $upstreams $engine -}}
{{- end -}}
{{- $upstreams = concat $upstreams .Values.upstreams -}}
{{- if not $upstreams -}}
{{- fail "the gateways have no engine: enable engine and discovery, or name upstreams" -}}
{{- end -}}
{{- $served := list -}}
{{- range $upstreams -}}
{{- $served = concat $served .models -}}
{{- end -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $most := ternary .Values.gateway.autoscaling.maxReplicas .Values.gateway.replicas .Values.gateway.autoscaling.enabled -}}
{{- if gt (int $most) 1 -}}
{{- /* Several gateways agree on a document's engine without asking each other (docs/scaling.md). */ -}}
{{- $settings = merge $settings (dict "routing" (dict "new_documents" "hashed")) -}}
{{- end -}}
{{- if has .Values.model.name $served -}}
{{- $policy := merge (deepCopy .Values.model.policy) (include "wave-serve.model.known" . | fromYaml) -}}
{{- $_ := set $settings "models" (merge (dict .Values.model.name $policy) (default dict $settings.models)) -}}
{{- end -}}
{{- $forced := dict "host" "0.0.0.0" "port" 8000 "upstreams" $upstreams "timeouts" (dict "drain" .Values.gateway.drainSeconds) -}}
{{- if and .Values.engine.enabled .Values.discovery.enabled -}}
{{- $_ := set $forced "discovery" (dict "every" .Values.discovery.every) -}}
{{- end -}}
{{- if include "wave-serve.keys.secret" . -}}
{{- $_ := set $forced "auth" (dict "keys_file" "/etc/wave-serve/keys/keys.yaml") -}}
{{- end -}}
{{- if .Values.limits.store -}}
{{- $limits := dict "store" .Values.limits.store "when_down" .Values.limits.whenDown -}}
{{- if .Values.limits.passwordSecret.name -}}
{{- $_ := set $limits "password" "env:WAVE_SERVE_LIMITS_PASSWORD" -}}
{{- end -}}
{{- $_ := set $forced "limits" $limits -}}
{{- end -}}
{{- mergeOverwrite $settings $forced | toYaml -}}
{{- end -}}

{{/*
What of the settings a running gateway does not take over. The names of models and their tokenizers belong to it; the
rest of `models`, and the sections named here, are read again by themselves (docs/operations.md, Reload).
*/}}
{{- define "wave-serve.settings.fixed" -}}
{{- $settings := include "wave-serve.settings" . | fromYaml -}}
{{- $fixed := omit $settings "auth" "admission" "routing" "models" "aliases" "upstreams" "max_body_bytes" "page" -}}
{{- range $name, $policy := default dict $settings.models -}}
{{- $_ := set $fixed (printf "models.%s" $name) (dig "tokenizer" "" $policy) -}}
{{- end -}}
{{- toYaml $fixed -}}
{{- end -}}
