#!/usr/bin/env bash
# From nothing to a verified prediction on this machine: engine, lab host, site.yml, health check, one request.
set -euo pipefail
cd "$(dirname "$0")/.."
export ANSIBLE_DISPLAY_SKIPPED_HOSTS=false

step() { printf '\n\033[1m== %s (%s s)\033[0m\n' "$*" "$SECONDS"; }

step "Docker engine"
lab/lab.sh engine
TF2X_IMAGE_SOURCE=$(lab/lab.sh image-source)
export TF2X_IMAGE_SOURCE
echo "images: $TF2X_IMAGE_SOURCE"

if [ "$TF2X_IMAGE_SOURCE" = build ]; then
  # site.yml would do it as well, but silently.
  step "Images"
  python3 files/images/build.py tf_serving_compat haproxy prometheus node_exporter alertmanager cluster_page >build/lab/images.json
fi

step "Lab host tf2x-demo"
ports=()
for port in 9000 9001 9002 9003 9500 9501; do ports+=("127.0.0.1:$port:$port"); done
lab/lab.sh up tf2x-demo "${ports[@]}"

step "playbooks/site.yml"
ansible-playbook -i inventory/demo playbooks/site.yml

step "playbooks/health_check.yml"
ansible-playbook -i inventory/demo playbooks/health_check.yml -e health_check_report="$PWD/build/health.json"

step "A prediction"
echo "curl -F file=@files/models/pets/samples/cat.jpg http://127.0.0.1:9000/model/predict/"
curl --fail-with-body --silent --show-error -F file=@files/models/pets/samples/cat.jpg http://127.0.0.1:9000/model/predict/
echo
step "Done"
cat <<'TEXT'
gateway      http://127.0.0.1:9000/form      upload page; POST /model/predict/ for programs
metrics      http://127.0.0.1:9000/metrics
cluster      http://127.0.0.1:9001/          nodes, tasks and what each replica serves, live
Prometheus   http://127.0.0.1:9002/alerts
TF Serving   http://127.0.0.1:9501/v1/models/pets     (gRPC on 127.0.0.1:9500)
health       build/health.html               for machines: build/health.json
TEXT
python3 - <<'PYTHON'
import json
for note in json.load(open("build/health.json"))["notes"]:
    print("note:", note)
PYTHON
