"""The dashboards as code, and what stands beside them: provisioning and alert rules. Nothing here is imported by the sidecar."""
