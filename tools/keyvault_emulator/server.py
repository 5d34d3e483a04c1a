"""Serve vaults and Entra on one HTTPS port, and the control API on another, so that the first can be cut off."""

import asyncio
import hashlib
import hmac
import logging
import ssl
import uuid
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from tools.keyvault_emulator.azure import access, keyvault, routes
from tools.keyvault_emulator.azure.entra import EntraEmulation
from tools.keyvault_emulator.azure.envelope import envelope
from tools.keyvault_emulator.azure.issuers import IssuerKeys
from tools.keyvault_emulator.azure.routes import ENTRA, ParsedAddress
from tools.keyvault_emulator.azure.state import EmulatorState
from tools.keyvault_emulator.azure.tokens import TokenSigner, unauthorized
from tools.keyvault_emulator.breaking import break_off
from tools.keyvault_emulator.control import ControlApi
from tools.keyvault_emulator.errors import EmulatorError, ErrorAnswer, vault_error
from tools.keyvault_emulator.faults import CallCounters, FaultTable
from tools.keyvault_emulator.listener import HttpsListener
from tools.keyvault_emulator.tls import Flaw, LocalAuthority

LOG = logging.getLogger(__name__)

ANONYMOUS = "-"
"""The client id in the counters for calls without an identity."""


class EmulatorServer:
    """The emulator in this process: its state and its two ports."""

    def __init__(self, world: EmulatorState, folder: Path, address: str, port: int, control_port: int) -> None:
        self.world = world
        self.faults = FaultTable()
        self.counters = CallCounters()
        self.signer = TokenSigner(folder)
        self._entra = EntraEmulation(world, self.signer, IssuerKeys(world))
        self._folder = folder
        self._address = address
        self.authority = LocalAuthority(folder)
        data = web.Application(client_max_size=1 << 20)
        data.router.add_route("*", "/{path:.*}", self._handle_request)
        self.data = HttpsListener(data, address, port, self._server_context())
        control = web.Application(client_max_size=1 << 28)
        control.router.add_post("/control/{verb}", self._handle_control)
        self.control = HttpsListener(control, address, control_port, self._server_context())
        self._verbs = ControlApi(self)
        self.key = uuid.uuid4().hex + uuid.uuid4().hex

    def present(self, flaw: Flaw) -> None:
        """Present a certificate with this flaw from the next handshake on, and reset the existing connections."""
        self.data.replace_context(self._server_context(flaw))

    def _server_context(self, flaw: Flaw = "none") -> ssl.SSLContext:
        return self.authority.server_context(self._folder, [self._address], flaw)

    async def _handle_request(self, request: web.Request) -> web.StreamResponse:
        route = routes.parse(request.method, request.host, request.path)
        if route is None:
            return web.json_response(
                {"error": {"code": "NotFound", "message": "this address does not exist"}}, status=404
            )
        await asyncio.sleep(self.faults.latency(route.where, route.operation))
        fault = self.faults.pick(route.where, route.operation)
        if fault is not None:
            outcome = str(fault.status) if fault.kind in ("answer", "drip") else fault.kind
            self.counters.count(route.where, route.operation, ANONYMOUS, outcome)
            LOG.info("%s/%s: failed on purpose (%s)", route.where, route.operation, outcome)
            return await break_off(request, fault)
        asked = _RequestContext(request, route)
        try:
            body = await (self._ask_entra(asked) if route.where == ENTRA else self._ask_vault(asked))
            status, headers = 200, {}
        except ErrorAnswer as refusal:
            body, status, headers = refusal.body, refusal.status, refusal.headers
            LOG.info(
                "%s/%s %s for %s: %s",
                route.where,
                route.operation,
                route.name,
                asked.client_id,
                _refusal_code(body),
            )
        self.counters.count(route.where, route.operation, asked.client_id, str(status))
        return web.Response(
            body=msgspec.json.encode(body),
            status=status,
            headers={**headers, **envelope(request, route, self.world)},
            content_type="application/json",
            charset="utf-8",
        )

    async def _ask_entra(self, asked: "_RequestContext") -> dict[str, Any]:
        tenant, origin = asked.route.tenant, asked.origin
        match asked.route.operation:
            case "token":
                form = {key: str(value) for key, value in (await asked.request.post()).items()}
                asked.client_id = form.get("client_id", ANONYMOUS)
                correlation = asked.request.headers.get("client-request-id")
                return (await self._entra.token(tenant, form, origin, correlation)).body
            case "keys":
                return self._entra.keys(tenant, origin)
            case "instance":
                return self._entra.instance_discovery(asked.request.query, origin)
            case _:
                return self._entra.openid_configuration(tenant, origin)

    async def _ask_vault(self, asked: "_RequestContext") -> dict[str, Any]:
        route = asked.route
        vault = self.world.vaults.get(route.where.lower())
        if vault is None:
            # In Azure, a vault that does not exist has no DNS record. Here, this server must answer.
            raise vault_error(404, "VaultNotFound", f"This emulator has no vault named {route.where}.")
        if throttled := self.faults.admit(route.where.lower(), asyncio.get_running_loop().time()):
            raise throttled
        scheme, _, token = asked.request.headers.get("Authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not token:
                raise unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
            caller = self.signer.caller(token, vault, self.world.now())
        except ErrorAnswer as refusal:
            refusal.headers["WWW-Authenticate"] = (
                f'Bearer authorization="{asked.origin}/{vault.tenant}", resource="{vault.audience}"'
            )
            raise
        asked.client_id = caller.client_id
        if refused := access.network_refusal(caller, vault, asked.request.remote):
            raise refused
        identity = self.world.identities.get(caller.client_id.lower())
        if forbidden := access.refusal(caller, identity, vault, route.operation, route.name):
            raise forbidden
        # Key Vault includes its port in the URLs of pages.
        port = "" if ":" in asked.request.host else ":443"
        return keyvault.answer(vault, route, asked.request.query, f"{asked.origin}{port}")

    async def _handle_control(self, request: web.Request) -> web.Response:
        _, _, given = request.headers.get("Authorization", "").partition(" ")
        if not hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(self.key.encode()).digest()):
            return web.json_response({"error": "Authorization: Bearer <key> is missing or wrong"}, status=401)
        verb = request.match_info["verb"]
        try:
            result = await self._verbs.call(verb, await request.read())
        except EmulatorError as problem:
            return web.json_response({"error": str(problem)}, status=400)
        return web.Response(body=msgspec.json.encode({"result": result}), content_type="application/json")


class _RequestContext:
    """One call. Its client id becomes known while it is processed."""

    def __init__(self, request: web.Request, route: ParsedAddress) -> None:
        self.request = request
        self.route = route
        self.origin = f"https://{request.host}"
        self.client_id = ANONYMOUS


def _refusal_code(body: dict[str, Any]) -> str:
    """Return the code of a refusal for the log. Messages can contain the caller's input, so they are not logged."""
    error = body.get("error")
    if isinstance(error, dict):
        return "/".join(filter(None, (error["code"], error.get("innererror", {}).get("code"))))
    return f"{error} {body.get('error_codes')}"
