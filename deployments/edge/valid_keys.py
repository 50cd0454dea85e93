"""Valid keys: which callers the edges let in now, from the database of keys and the cluster's own key.

Deploy walk: deployments.state.key_store -> [valid_keys.py] -> directory.py
Where the database does not answer, the callers that were known go on until their keys expire, for a time that a setting
bounds; nobody new gets in. The cluster's own key is a file beside it, and needs no database.
"""

import logging
import time

from deployments.access.api_keys import ADMIN_KEY_FILE, hash_key, read_pepper
from deployments.access.caller import SEPARATOR, build_admin
from deployments.settings import ServingSettings
from deployments.state.key_store import KeySnapshot, KeyStore

logger = logging.getLogger(__name__)


class ValidKeys:
    """The keys of one cluster."""

    def __init__(self, settings: ServingSettings) -> None:
        """Open the database, and read it once.

        Args:
            settings: of the service.
        """
        self._access, self._admin_key_file = settings.access, settings.home / ADMIN_KEY_FILE
        self.pepper = read_pepper(settings.home)
        self._store = KeyStore(settings.platform, self.pepper)
        self._snapshot = self._store.load()
        self._read_s = time.monotonic()
        self._known: set[str] = set()
        self.ended: frozenset[str] = frozenset()
        """Ids of keys that were valid in this object's life, and are so no longer."""

    def read(self) -> dict[str, str]:
        """The callers by the digest of each key, as edges take them."""
        try:
            self._snapshot = self._store.load()
            self._read_s = time.monotonic()
        except Exception as error:
            outage_s = time.monotonic() - self._read_s
            if outage_s > self._access.max_database_outage_s and self._snapshot.callers:
                self._snapshot = KeySnapshot()
                logger.error("the database of keys has not answered for %.0f s: no caller is let in any more", outage_s)
            else:
                logger.warning("the database of keys does not answer, its callers go on: %s", error)
        valid = self._snapshot.encode_valid(time.time())
        ids = {value.split(SEPARATOR)[1] for value in valid.values()}
        self._known |= ids
        self.ended = frozenset(self._known - ids)
        return valid | self._read_admin_key()

    def _read_admin_key(self) -> dict[str, str]:
        if not self._access.admin_key or not self._admin_key_file.is_file():
            return {}
        return {hash_key(self._admin_key_file.read_text().strip(), self.pepper): build_admin().encode()}
