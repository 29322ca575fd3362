{{- define "soul.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "soul.labels" -}}
app.kubernetes.io/name: soul
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "soul.selector" -}}
app.kubernetes.io/name: soul
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "soul.podSecurity" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "soul.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "soul.environment" -}}
- {name: SOUL_DATABASE_URL, value: {{ .Values.database.url | quote }}}
- {name: SOUL_DATABASE_PASSWORD_FILE, value: /secrets/database-password}
- {name: SOUL_REDIS_URL_FILE, value: /secrets/broker-url}
- {name: SOUL_BLOBS_URL, value: {{ .Values.blobs.url | quote }}}
- {name: SOUL_MODEL_ROOTS, value: {{ ternary "/models" "" (ne .Values.models.existingClaim "") | quote }}}
- {name: SOUL_METRICS_PORT, value: {{ .Values.metricsPort | quote }}}
- {name: SOUL_METRICS_HOST, value: "0.0.0.0"}
{{- if .Values.huggingFace.tokenSecret.name }}
- {name: HF_TOKEN_PATH, value: /secrets/hf-token}
{{- end }}
{{- range $name, $value := merge (dict) .Values.settings .Values.telemetry }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "soul.mounts" -}}
- {name: data, mountPath: /data}
- {name: secrets, mountPath: /secrets, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.models.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{- define "soul.secretVolume" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ required "database.passwordSecret.name is needed" .Values.database.passwordSecret.name }}
          items: [{key: {{ .Values.database.passwordSecret.key }}, path: database-password}]
      - secret:
          name: {{ required "broker.urlSecret.name is needed" .Values.broker.urlSecret.name }}
          items: [{key: {{ .Values.broker.urlSecret.key }}, path: broker-url}]
      {{- with .Values.huggingFace.tokenSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items: [{key: {{ .key }}, path: hf-token}]
      {{- end }}
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- end -}}

{{- define "soul.volumes" -}}
{{ include "soul.secretVolume" . }}
- name: data
  persistentVolumeClaim: {claimName: {{ .Values.volume.existingClaim | default (printf "%s-data" (include "soul.name" .)) }}}
{{- if .Values.models.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.models.existingClaim }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "soul.image" -}}
image: {{ printf "%s:%s" .repository .tag | quote }}
imagePullPolicy: {{ .pullPolicy }}
{{- end -}}
