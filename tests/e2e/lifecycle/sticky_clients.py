"""Runs on a gateway's host: clients with an address each ask several times; prints which versions answered whom.

python3 -c "$(cat sticky_clients.py)" PORT PATH CLIENTS TIMES <picture.png
"""

import http.client
import json
import sys

port, path, clients, times = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
picture = sys.stdin.buffer.read()
found = {}
for number in range(clients):
    address = f"127.0.1.{number + 1}"
    for _unused in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(address, 0))
        connection.request("POST", path, picture, {"Content-Type": "image/png"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            sys.exit(f"client {address}: status {response.status}: {body.decode()}")
        found.setdefault(address, []).append(int(json.loads(body)["model"]["version"]))
        connection.close()
print(json.dumps(found))
