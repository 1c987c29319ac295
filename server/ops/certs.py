"""The federation's own certificate authority and the SuperLink's certificate."""

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.ops.folder import PRIVATE_FOLDER, Folder
from shared.errors import ConfigError, RunError
from shared.files import atomic_path
from shared.keys import create_secret_file

CA_DAYS = 3650
# A renewal falls due this long before the end; an operator may be on leave.
WARNING_DAYS = 14
# Clocks of organisations may be behind.
BACKDATED = timedelta(minutes=5)
ALWAYS = ("localhost", "127.0.0.1", "::1")

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class Certificate:
    """What an operator wants to know of a certificate.

    Attributes:
        path: of the file.
        hosts: names and addresses that it is for.
        begins, ends: of its validity, in UTC.
    """

    path: Path
    hosts: tuple[str, ...]
    begins: datetime
    ends: datetime

    def days_left(self, now: datetime) -> float:
        """Days until it ends; negative when it has."""
        return (self.ends - now) / timedelta(days=1)


def make_authority(folder: Folder, hosts: tuple[str, ...]) -> None:
    """Make the federation's certificate authority.

    Args:
        folder: of the federation.
        hosts: that its first certificate will be for; it is called after the first.

    Raises:
        ConfigError: if a host is neither a name nor an address; nothing was made then.
        RunError: if there is an authority.
    """
    _alternative_names(hosts)
    if folder.ca_certificate.exists() or (folder.tls / "ca.key").exists():
        raise RunError(
            f"{folder.tls}: holds a certificate authority; nothing was overwritten. A new "
            "certificate under it, which organisations accept without a new ca.crt, is made by: "
            f"tacit server certs {folder.root} --renew"
        )
    folder.tls.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"tacit federation {hosts[0]}"[:64])]
    )
    certificate = (
        _builder(subject, subject, key.public_key(), _in_days(CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    create_secret_file(folder.tls / "ca.key", _pem(key))
    _write(folder.ca_certificate, certificate)


def make_server_certificate(folder: Folder, hosts: tuple[str, ...], days: int) -> Certificate:
    """Make the SuperLink's key and certificate under the authority; those before are replaced.

    Args:
        hosts: names and addresses by which organisations reach the SuperLink.
        days: of validity, which the authority's own cuts short.

    Raises:
        ConfigError: if a host is neither a name nor an address.
        RunError: if the authority's files cannot be read.
    """
    names = _alternative_names(hosts)
    authority = _load(folder.ca_certificate)
    authority_key = _load_key(folder.tls / "ca.key")
    ends = min(_in_days(days), authority.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(subject, authority.subject, key.public_key(), ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    new = folder.tls / "server.key.new"
    new.unlink(missing_ok=True)
    create_secret_file(new, _pem(key))
    new.replace(folder.tls / "server.key")
    _write(folder.tls / "server.crt", certificate)
    return read_certificate(folder.tls / "server.crt")


def read_certificate(path: Path) -> Certificate:
    """Hosts and validity of a certificate.

    Raises:
        RunError: if the file cannot be read as one.
    """
    return _described(path, _load(path))


def check_server_certificate(folder: Folder, now: datetime) -> tuple[Certificate, list[str]]:
    """The SuperLink's certificate, and what its operator should be warned of.

    Raises:
        RunError: if it is missing, not signed by the authority, not for its key, not valid now.
    """
    path = folder.tls / "server.crt"
    found, authority = _load(path), _load(folder.ca_certificate)
    again = f"make a new one with: tacit server certs {folder.root} --renew"
    try:
        found.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RunError(f"{path}: was not issued by {folder.ca_certificate}; {again}") from error
    key_path = folder.tls / "server.key"
    if _public(_load_key(key_path).public_key()) != _public(found.public_key()):
        raise RunError(f"{path}: does not belong to {key_path}; {again}")
    warnings = []
    for certificate, cure in (
        (_described(folder.ca_certificate, authority), "make a new authority in a new folder"),
        (_described(path, found), again),
    ):
        left = certificate.days_left(now)
        if now < certificate.begins:
            raise RunError(
                f"{certificate.path}: is valid only from {certificate.begins:%Y-%m-%d %H:%M} UTC "
                f"and it is {now:%Y-%m-%d %H:%M} UTC here; set this machine's clock"
            )
        if left <= 0:
            raise RunError(
                f"{certificate.path}: expired on {certificate.ends:%Y-%m-%d %H:%M} UTC; {cure}"
            )
        if left < WARNING_DAYS:
            warnings.append(
                f"{certificate.path}: expires on {certificate.ends:%Y-%m-%d}, in {left:.0f} days; "
                f"{cure}"
            )
    if key_path.stat().st_mode & 0o077:
        warnings.append(f"{key_path}: can be read by others; run: chmod 600 {key_path}")
    return _described(path, found), warnings


def _alternative_names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys((*hosts, *ALWAYS)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError as error:
            # Four numbers that are no address would pass as a name.
            if not _DNS_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
                raise ConfigError(
                    f"--host {host}: is neither a name nor an address; write for example "
                    "--host federation.example.org --host 192.0.2.7, without scheme and port"
                ) from error
            names.append(x509.DNSName(host))
    return names


def _described(path: Path, certificate: x509.Certificate) -> Certificate:
    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        hosts: tuple[str, ...] = ()
    else:
        hosts = (
            *value.get_values_for_type(x509.DNSName),
            *(str(address) for address in value.get_values_for_type(x509.IPAddress)),
        )
    return Certificate(
        path, hosts, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - BACKDATED)
        .not_valid_after(ends)
    )


def _in_days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _write(path: Path, certificate: x509.Certificate) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(certificate.public_bytes(Encoding.PEM))
        temporary.chmod(0o644)


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read as a certificate ({error}); tacit server certs makes one"
        ) from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as a private key ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RunError(f"{path}: is no elliptic-curve key; tacit server certs makes them")
    return key
