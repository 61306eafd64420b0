"""Manifests in the many ways that people and programs write them. Each is valid by Kubernetes' own schema."""

DEPLOYMENT = """\
# what it is
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      # the app itself
      containers:
        # first
        - name: app   # named so
          image: "example/app:1"

          ports: [{containerPort: 80}]
          env:
            # set by hand
            - name: A
              value: 'b'   # quoted
        - image: example/other:2
          name: other
      volumes: []
"""

INDENTLESS = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: once
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers:
      - image: example/job
        name: job
        env: []
      initContainers:
      - name: migrate
        image: example/migrate
        command:
        - sh
        - -c
        - |
          # sidecar-injection is not a mark
          echo "containers:"
"""

CRON = """\
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          terminationGracePeriodSeconds: 5
          initContainers: []
          containers:
            - name: nightly
              image: example/nightly
              envFrom:
                - configMapRef: {name: settings}
...
"""

POD = """\
apiVersion: v1
kind: Pod
metadata:
    name: wide
spec:
    containers:
    -   name: app
        image: example/app
        env: [{name: A, value: "1, 2"}, {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    restartPolicy: Always
"""

FLOW_CONTAINER = """\
apiVersion: v1
kind: Pod
metadata: {name: flow}
spec:
  containers:
    - {name: app, image: 'example/app:1', env: [{name: A, value: b}]}
    - {image: example/b, name: b}
"""

ONE_KEY_LAST_LINE = """\
apiVersion: v1
kind: Pod
metadata: {name: short}
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: app"""

MANY_DOCUMENTS = """\
# Source: chart/templates/service.yaml
apiVersion: v1
kind: Service
metadata:
  name: db
spec:
  ports: [{port: 1}]
  clusterIP: None
---
# Source: chart/templates/statefulset.yaml
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: "db"
  annotations:
    text: >-
      containers:
        - name: not one
spec:
  serviceName: db
  selector:
    matchLabels:
      app: db
  template:
    metadata:
      labels:
        app: db
    spec:
      securityContext: {}
      initContainers:
        # before all
        - name: init
          image: example/init
      containers:
        - name: db
          image: example/db
          env:
          - {name: A, value: b}
          - name: OPENAI_BASE_URL
            value: http://elsewhere/v1
---
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
spec:
  selector:
    matchLabels: {app: agent}
  template:
    metadata:
      labels: {app: agent}
    spec:
      tolerations:
        - operator: Exists
      containers:
        - name: agent
          image: example/agent
          env:
"""

LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: c}
  data:
    pod.yaml: |
      kind: Pod
      spec:
        containers: []
- apiVersion: v1
  kind: Pod
  metadata: {name: listed}
  spec:
    containers:
    - name: app
      image: example/app
"""

ANCHORS = """\
apiVersion: apps/v1
kind: Deployment
metadata: &meta
  name: anchored
spec:
  selector: &labels {matchLabels: {app: anchored}}
  template:
    metadata: {labels: {app: anchored}}
    spec:
      containers:
        - name: app
          image: &image example/app
          env: &env
            - {name: A, value: b}
        - &second
          name: second
          image: *image
          args: ["--x"]
        -
          name: third
          image: *image
          env:
            - &b
              name: B
              value: c
            -
              name: C
              value: d
"""

TEXTS = """\
apiVersion: v1
kind: Pod
metadata: {name: texts}
spec:
  initContainers:
    - name: first
      image: example/first
      args:
        - |
          cat > /settings <<END
          a = 1
          # b = 2
  # after the text
  containers:
    - args:
        - >-
          run
          # not a comment

      name: app
      image: example/app
    - image: "example/a
        # folded"
      name: other
"""

MERGED = """\
apiVersion: v1
kind: Pod
metadata: {name: merged}
spec:
  containers:
    - &base
      name: app
      image: example/app
      env:
        - {name: A, value: b}
    - <<: *base
      name: other
      env:
        - {name: C, value: d}
"""


CORPUS = {
    "deployment": DEPLOYMENT,
    "indentless job": INDENTLESS,
    "cron job": CRON,
    "wide pod": POD,
    "containers in braces": FLOW_CONTAINER,
    "one key, no last line end": ONE_KEY_LAST_LINE,
    "many documents": MANY_DOCUMENTS,
    "list": LIST,
    "anchors": ANCHORS,
    "texts with number signs": TEXTS,
    "merged, with variables of its own": MERGED,
}
