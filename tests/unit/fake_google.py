"""Google's Compute, IAM and token endpoints, as much of them as google.cloud's modules and inventory plugin need.

It is a proxy: clients ask it with CONNECT for a host of googleapis.com, and it answers with a certificate of its own
for that name, as HTTPS_PROXY and REQUESTS_CA_BUNDLE have them accept. So no client is changed. It keeps state: what is
made refers to what must be there, what is referred to cannot be removed, and answers have the forms of the real ones.
"""

from __future__ import annotations

import copy
import datetime
import ipaddress
import itertools
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import jwt

PROJECT = "my-lab-project"
ACCOUNT = f"deployer@{PROJECT}.iam.gserviceaccount.com"
HOSTS = [f"{name}.googleapis.com" for name in ("compute", "www", "iam", "iamcredentials", "oauth2")]
LINKS = "https://www.googleapis.com/compute/v1/"
PATH = re.compile(r"/compute/v1/projects/([^/]+)/(?:(global|(?:zones|regions)/[^/]+)/)?(\w+)(?:/([^/]+))?(?:/(\w+))?$")
# What the project has without anybody making it.
GIVEN = re.compile(r"/(?:machineTypes|diskTypes|images)/")
PAGE = 2


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        details = [{"message": message, "domain": "global", "reason": reason}]
        self.status, self.body = status, {"error": {"code": status, "message": message, "errors": details}}


@dataclass
class Google:
    """`denied` are permissions that the account lacks, `surprises` paths that somebody else makes just before we do."""

    certificate: bytes
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    surprises: set[str] = field(default_factory=set)
    cpus: int = 100
    revoked: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # The lists of what there is.

    def names(self, kind: str) -> list[str]:
        return sorted(path.rsplit("/", 1)[1] for path in self.resources if path.split("/")[-2] == kind)

    def one(self, kind: str, name: str) -> dict[str, Any]:
        return next(thing for path, thing in self.resources.items() if path.endswith(f"/{kind}/{name}"))

    def changes(self) -> list[tuple[str, str]]:
        """Return what was asked for besides looking."""
        return [(method, path) for method, path in self.asked if method != "GET" and path != "/token"]

    # Answers.

    def answer(self, host: str, method: str, target: str, token: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if host == "iamcredentials.googleapis.com":
            # Clients ask beside their tokens in which regions these are good for.
            return 200, {"locations": [], "encodedLocations": "0x0"}
        self.asked.append((method, parts.path))
        try:
            if host == "oauth2.googleapis.com":
                return self._trade(body)
            if token != "Bearer token-1":
                raise Refused(401, "authError", "Invalid Credentials")
            content = json.loads(body) if body and body != b"null" else {}
            if host == "iam.googleapis.com":
                return 200, self._iam(method, parts.path, content)
            return 200, self._compute(method, parts.path, query, content)
        except Refused as refused:
            return refused.status, refused.body

    def _trade(self, body: bytes) -> tuple[int, Any]:
        try:
            claims = jwt.decode(
                parse_qs(body.decode())["assertion"][0],
                certs=self.certificate,
                audience="https://oauth2.googleapis.com/token",
            )
            right = claims["iss"] == ACCOUNT and not self.revoked
        except ValueError:
            right = False
        if right:
            return 200, {"access_token": "token-1", "expires_in": 3600, "token_type": "Bearer"}
        return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}

    def _allow(self, permission: str, resource: str) -> None:
        if permission in self.denied and permission.startswith("iam."):
            message = f"Permission '{permission}' denied on resource (or it may not exist)."
            raise Refused(403, "forbidden", message)
        if permission in self.denied:
            raise Refused(403, "forbidden", f"Required '{permission}' permission for '{resource}'")

    def _iam(self, method: str, path: str, body: dict[str, Any]) -> Any:
        matched = re.fullmatch(rf"/v1/projects/{PROJECT}/serviceAccounts(?:/([^/]+))?", path)
        assert matched, path
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if matched[1] else "list")
        self._allow(f"iam.serviceAccounts.{verb}", path)
        if method == "POST":
            email = f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
            made = {"name": f"projects/{PROJECT}/serviceAccounts/{email}", "email": email, **body["serviceAccount"]}
            return self.accounts.setdefault(email, made)
        if not matched[1]:
            return {"accounts": list(self.accounts.values())} if self.accounts else {}
        if matched[1] not in self.accounts:
            raise Refused(404, "notFound", f"Unknown service account {matched[1]}")
        return self.accounts[matched[1]] if method == "GET" else (self.accounts.pop(matched[1]), {})[1]

    def _compute(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        if path == f"/compute/v1/projects/{PROJECT}/aggregated/instances":
            return self._aggregated(query)
        matched = PATH.fullmatch(path)
        assert matched, path
        project, scope, kind, name, verb = matched.groups()
        if project != PROJECT:
            raise Refused(404, "notFound", f"The resource 'projects/{project}' was not found")
        if kind == "operations":
            return self.operations[name] | {"status": "DONE"}
        where = f"projects/{project}/{scope or 'global'}/{kind}"
        if name:
            return self._one(method, f"{where}/{name}", kind, verb, self._tidy(body))
        if method == "POST":
            return self._create(where, kind, self._tidy(body))
        self._allow(f"compute.{kind}.list", f"projects/{project}")
        return self._list(where, query)

    def _one(self, method: str, here: str, kind: str, verb: str | None, body: dict[str, Any]) -> Any:
        if here not in self.resources:
            raise Refused(404, "notFound", f"The resource '{here}' was not found")
        if verb:
            return self._act(here, verb, body)
        if method == "GET":
            return self.resources[here]
        return self._delete(here, kind) if method == "DELETE" else self._update(here, kind, body)

    def _aggregated(self, query: dict[str, str]) -> Any:
        found: dict[str, Any] = {}
        filters = re.findall(r"labels\.(\w+) = ([\w-]+)", query.get("filter", ""))
        assert filters or not query.get("filter"), query
        for path, thing in self.resources.items():
            zone, kind = path.split("/")[3], path.split("/")[4]
            if kind == "instances" and all(thing["labels"].get(key) == value for key, value in filters):
                found.setdefault(f"zones/{zone}", {"instances": []})["instances"].append(thing)
        return {"items": copy.deepcopy(found) or {"zones/europe-west1-b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}}

    def _list(self, where: str, query: dict[str, str]) -> Any:
        self._settle()
        found = [thing for path, thing in sorted(self.resources.items()) if path.rpartition("/")[0] == where]
        start = int(query.get("pageToken", 0))
        page: dict[str, Any] = {"items": found[start : start + PAGE]} if found else {}
        if len(found) > start + PAGE:
            page["nextPageToken"] = str(start + PAGE)
        return page

    # Changes.

    def _tidy(self, body: dict[str, Any]) -> dict[str, Any]:
        """Google names itself in links by one name, whichever it was asked by."""
        text = json.dumps(body).replace("https://compute.googleapis.com/compute/v1/", LINKS)
        tidy: dict[str, Any] = json.loads(text)
        for link in self._references(tidy):
            if link not in self.resources and not GIVEN.search(link):
                raise Refused(404, "notFound", f"The resource '{link}' was not found")
        return tidy

    def _references(self, thing: Any) -> set[str]:
        links = re.findall(rf'"{re.escape(LINKS)}(projects/[^"]+)"', json.dumps(thing))
        return {link for link in links if link.count("/") > 3}

    def _create(self, where: str, kind: str, body: dict[str, Any]) -> Any:
        here = f"{where}/{body['name']}"
        if here in self.resources or here in self.surprises:
            raise Refused(409, "alreadyExists", f"The resource '{here}' already exists")
        self._allow(f"compute.{kind}.create", here)
        number = next(self.numbers)
        thing = {**body, "id": str(10**18 + number), "selfLink": LINKS + here, "fingerprint": f"f{number}="}
        if kind == "instances":
            error = self._boot(where, thing, number)
            if error:
                return self._operation(where, here, error=error)
        elif kind == "addresses":
            thing |= {"address": str(ipaddress.ip_address("203.0.113.0") + number), "status": "RESERVED"}
        elif kind == "instanceGroups":
            thing |= {"size": 0, "instances": []}
        elif kind == "instanceGroupManagers":
            group = here.replace("Managers/", "s/")
            self.resources[group] = {
                "name": thing["name"],
                "description": f"This instance group is controlled by Instance Group Manager '{thing['name']}'.",
                "selfLink": LINKS + group,
                "size": thing["targetSize"],
            }
            thing |= {"instanceGroup": LINKS + group, "status": {"isStable": False}}
        self.resources[here] = thing
        return self._operation(where, here, done=kind != "instances")

    def _boot(self, where: str, thing: dict[str, Any], number: int) -> dict[str, Any] | None:
        machines = [other for path, other in self.resources.items() if "/instances/" in path]
        cpus = [int(one["machineType"].rsplit("-", 1)[1]) for one in [*machines, thing]]
        if sum(cpus) > self.cpus:
            message = f"Quota 'CPUS' exceeded.  Limit: {self.cpus}.0 in region europe-west1."
            return {"errors": [{"code": "QUOTA_EXCEEDED", "message": message}]}
        interface = thing["networkInterfaces"][0]
        interface["networkIP"] = f"192.168.80.{number}"
        config = interface["accessConfigs"][0]
        reserved = [other["address"] for path, other in self.resources.items() if "/addresses/" in path]
        if config.setdefault("natIP", f"198.51.100.{number}") not in [f"198.51.100.{number}", *reserved]:
            raise Refused(400, "invalid", f"External IP address {config['natIP']} is not reserved")
        size = thing["disks"][0].pop("initializeParams")["diskSizeGb"]
        thing["disks"][0] |= {"diskSizeGb": str(size), "type": "PERSISTENT"}
        thing["zone"] = LINKS + where.rpartition("/")[0]
        thing |= {"status": "RUNNING", "labelFingerprint": f"l{number}="}
        return None

    def _settle(self) -> None:
        """Make the machines of managed groups, a look after the groups were made."""
        for path, manager in list(self.resources.items()):
            if "/instanceGroupManagers/" not in path:
                continue
            where = f"{path.split('/instanceGroupManagers/')[0]}/instances"
            template = self.resources[manager["instanceTemplate"].removeprefix(LINKS)]["properties"]
            manager["status"] = {"isStable": bool(manager.get("made"))}
            for number in range(0 if manager.get("made") else manager["targetSize"]):
                name = f"{manager['baseInstanceName']}-x{number}z{number}"
                thing = copy.deepcopy(template) | {"name": name, "selfLink": f"{LINKS}{where}/{name}"}
                thing["machineType"] = f"{LINKS}{where.rpartition('/')[0]}/machineTypes/{template['machineType']}"
                thing["metadata"]["items"].append({"key": "created-by", "value": path})
                thing["id"] = str(next(self.numbers))
                self._boot(where, thing, next(self.numbers))
                self.resources[f"{where}/{name}"] = thing
            manager["made"] = True

    def _delete(self, here: str, kind: str) -> Any:
        self._allow(f"compute.{kind}.delete", here)
        if kind == "instanceGroupManagers":
            for path, thing in list(self.resources.items()):
                if "/instances/" in path and {"key": "created-by", "value": here} in thing["metadata"]["items"]:
                    del self.resources[path]
        for path, thing in self.resources.items():
            in_use = here in self._references(thing) and path != here
            if kind == "addresses":
                in_use = f'"{self.resources[here]["address"]}"' in json.dumps(thing) and path != here
            own = kind == "instanceGroupManagers" and path == here.replace("Managers/", "s/")
            if in_use and not own:
                message = f"The {kind[:-1]} resource '{here}' is already being used by '{path}'"
                raise Refused(400, "resourceInUseByAnotherResource", message)
        if kind == "instanceGroupManagers":
            del self.resources[here.replace("Managers/", "s/")]
        del self.resources[here]
        return self._operation(here.rpartition("/")[0], here)

    def _update(self, here: str, kind: str, body: dict[str, Any]) -> Any:
        self._allow(f"compute.{kind}.update", here)
        thing = self.resources[here]
        if kind == "backendServices" and body.get("fingerprint") != thing["fingerprint"]:
            raise Refused(412, "conditionNotMet", "Invalid fingerprint.")
        thing |= body | {"fingerprint": f"f{next(self.numbers)}="}
        return self._operation(here.rpartition("/")[0], here)

    def _act(self, here: str, verb: str, body: dict[str, Any]) -> Any:
        thing = self.resources[here]
        if verb == "listInstances":
            return {"items": [{"instance": link} for link in thing["instances"]]} if thing["instances"] else {}
        if verb in ("addInstances", "removeInstances"):
            links = [one["instance"] for one in body["instances"]]
            kept = [link for link in thing["instances"] if link not in links]
            thing["instances"] = kept + (links if verb == "addInstances" else [])
            thing["size"] = len(thing["instances"])
        elif verb == "setLabels":
            if body["labelFingerprint"] != thing["labelFingerprint"]:
                raise Refused(412, "conditionNotMet", "Labels fingerprint either invalid or labels have changed")
            thing["labels"] = body["labels"]
        elif verb == "setSslCertificates":
            thing["sslCertificates"] = body["sslCertificates"]
        else:
            raise AssertionError(verb)
        return self._operation(here.rpartition("/")[0], here)

    def _operation(self, where: str, target: str, *, done: bool = True, error: Any = None) -> Any:
        name = f"operation-{next(self.numbers)}"
        operation: dict[str, Any] = {"kind": "compute#operation", "name": name, "targetLink": LINKS + target}
        if error:
            operation |= {"error": error, "httpErrorStatusCode": 403, "httpErrorMessage": "FORBIDDEN"}
        self.operations[name] = operation
        operation["selfLink"] = f"{LINKS}{where.rpartition('/')[0]}/operations/{name}"
        return {**operation, "status": "DONE" if done else "RUNNING"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    google: Google
    context: ssl.SSLContext
    lock: threading.Lock

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        if self.host not in HOSTS:
            self.send_error(502, f"{self.host} is none of Google's")
            return
        self.send_response(200)
        self.end_headers()
        # What follows on this connection is for the host itself.
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.lock:
            status, answer = self.google.answer(
                self.host, self.command, self.path, self.headers.get("Authorization", ""), body
            )
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_arguments: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: Any) -> None:
        """A client that does not trust the certificate, or hangs up, is no news."""


def _certificate(folder: Path) -> ssl.SSLContext:
    """Write ca.pem, and return a context with a certificate of it for Google's hosts."""
    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _unused in range(2))
    issuer, subject = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("fake CA", "fake Google")
    )

    def signed(of: x509.Name, public: Any, extensions: list[tuple[x509.ExtensionType, bool]]) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(of).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.not_valid_after(now + datetime.timedelta(days=1)).sign(ca_key, hashes.SHA256())

    authority = signed(issuer, ca_key.public_key(), [(x509.BasicConstraints(ca=True, path_length=None), True)])
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    leaf = signed(subject, key.public_key(), [(names, False)])
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def _account(folder: Path) -> bytes:
    """Write account.json, the key of ACCOUNT, and return what its signatures are verified with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account",
        "project_id": PROJECT,
        "client_email": ACCOUNT,
        "private_key_id": "1",
        "private_key": private.decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    (folder / "account.json").write_text(json.dumps(content))
    (folder / "account.json").chmod(0o600)
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def fake_google(folder: Path) -> Iterator[tuple[Google, dict[str, str]]]:
    """Serve, and yield the fake with the environment that leads clients to it."""
    google = Google(_account(folder))
    served = {"google": google, "context": _certificate(folder), "lock": threading.Lock()}
    handler = type("Handler", (_Handler,), served)
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    proxy = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield (
            google,
            {
                "HTTPS_PROXY": proxy,
                "https_proxy": proxy,
                "NO_PROXY": "",
                "no_proxy": "",
                "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"),
                "GCP_AUTH_KIND": "serviceaccount",
                "GCP_SERVICE_ACCOUNT_FILE": str(folder / "account.json"),
            },
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
