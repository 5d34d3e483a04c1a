"""Azure Key Vault and Entra over HTTPS on this machine, for the demo and the tests."""

from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.process import Emulator

__all__ = ["Emulator", "EmulatorError"]
