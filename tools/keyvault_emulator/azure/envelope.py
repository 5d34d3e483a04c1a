"""Build the headers that Key Vault and Entra send with every answer."""

import uuid
from email.utils import formatdate

from aiohttp import web

from tools.keyvault_emulator.azure.routes import ENTRA, ParsedAddress
from tools.keyvault_emulator.azure.state import EmulatorState

SERVICE_VERSION = "1.9.3019.1"
"""The version of the service in Key Vault's answers."""


def envelope(request: web.Request, route: ParsedAddress, world: EmulatorState) -> dict[str, str]:
    """Return the headers of an answer to this request that do not depend on its content."""
    headers = {
        "Pragma": "no-cache",
        "Expires": "-1",
        "Date": formatdate(world.now(), usegmt=True),
        "X-Content-Type-Options": "nosniff",
        "x-ms-request-id": str(uuid.uuid4()),
    }
    if route.where == ENTRA:
        return headers | {
            "Cache-Control": "no-store, no-cache",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
            "P3P": 'CP="DSP CUR OTPi IND OTRi ONL FIN"',
            "x-ms-ests-server": "2.1.1.1 - EMULATOR ProdSlices",
            "X-XSS-Protection": "0",
        }
    vault = world.vaults.get(route.where.lower())
    return headers | {
        "Cache-Control": "no-cache",
        "Strict-Transport-Security": "max-age=31536000;includeSubDomains",
        "x-ms-client-request-id": request.headers.get("x-ms-client-request-id") or str(uuid.uuid4()),
        "x-ms-keyvault-region": vault.location if vault else "westeurope",
        "x-ms-keyvault-service-version": SERVICE_VERSION,
        "x-ms-keyvault-network-info": f"conn_type=Ipv4;addr={request.remote};act_addr_fam=InterNetwork;",
    }
