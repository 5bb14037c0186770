#!/usr/bin/env bash
# From nothing to a swarm of five nodes on this machine: engine, lab hosts, site.yml, health check, one request to each gateway.
set -euo pipefail
cd "$(dirname "$0")/.."
export ANSIBLE_DISPLAY_SKIPPED_HOSTS=false

step() { printf '\n\033[1m== %s (%s s)\033[0m\n' "$*" "$SECONDS"; }
address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }

mapfile -t hosts < <(ansible-inventory -i inventory/ha --graph swarm | sed -n 's/.*|--\(tf2x-.*\)/\1/p')
mapfile -t gateways < <(ansible-inventory -i inventory/ha --graph gateway | sed -n 's/.*|--\(tf2x-.*\)/\1/p')
monitoring=$(ansible-inventory -i inventory/ha --graph monitoring | sed -n 's/.*|--\(tf2x-.*\)/\1/p')

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

step "Lab hosts ${hosts[*]}"
for host in "${hosts[@]}"; do lab/lab.sh up "$host"; done

step "playbooks/site.yml"
ansible-playbook -i inventory/ha playbooks/site.yml

step "playbooks/health_check.yml"
ansible-playbook -i inventory/ha playbooks/health_check.yml -e health_check_report="$PWD/build/health-ha.json"

step "Predictions"
for host in "${gateways[@]}"; do
  echo "curl -F file=@files/models/pets/samples/cat.jpg http://$(address "$host"):9000/model/predict/"
  curl --fail-with-body --silent --show-error --noproxy '*' -F file=@files/models/pets/samples/cat.jpg \
    "http://$(address "$host"):9000/model/predict/"
  echo
done

step "Done"
for host in "${gateways[@]}"; do printf 'gateway      http://%s:9000/form      on %s\n' "$(address "$host")" "$host"; done
printf 'cluster      http://%s:9001/          on %s\n' "$(address "$monitoring")" "$monitoring"
printf 'Prometheus   http://%s:9002/alerts    on %s\n' "$(address "$monitoring")" "$monitoring"
cat <<TEXT
nodes        docker exec ${hosts[0]} docker node ls
replicas     docker exec ${hosts[0]} docker service ps PROD-STACK_tf_serving
health       build/health-ha.html
take a node  docker stop ${hosts[4]}; ansible-playbook -i inventory/ha playbooks/health_check.yml
TEXT
