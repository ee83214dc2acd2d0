from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RefusalCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_CODE_UNSPECIFIED: _ClassVar[RefusalCode]
    REFUSAL_CODE_BUSY: _ClassVar[RefusalCode]
    REFUSAL_CODE_DISK_FULL: _ClassVar[RefusalCode]
    REFUSAL_CODE_UNKNOWN_EPOCH: _ClassVar[RefusalCode]
    REFUSAL_CODE_DAMAGED: _ClassVar[RefusalCode]
    REFUSAL_CODE_FORGED: _ClassVar[RefusalCode]
    REFUSAL_CODE_BAD_FORMAT: _ClassVar[RefusalCode]
    REFUSAL_CODE_UNKNOWN_BUNDLE: _ClassVar[RefusalCode]
    REFUSAL_CODE_FINAL: _ClassVar[RefusalCode]
    REFUSAL_CODE_NOT_ENROLLED: _ClassVar[RefusalCode]
    REFUSAL_CODE_PROTOCOL_BROKEN: _ClassVar[RefusalCode]
REFUSAL_CODE_UNSPECIFIED: RefusalCode
REFUSAL_CODE_BUSY: RefusalCode
REFUSAL_CODE_DISK_FULL: RefusalCode
REFUSAL_CODE_UNKNOWN_EPOCH: RefusalCode
REFUSAL_CODE_DAMAGED: RefusalCode
REFUSAL_CODE_FORGED: RefusalCode
REFUSAL_CODE_BAD_FORMAT: RefusalCode
REFUSAL_CODE_UNKNOWN_BUNDLE: RefusalCode
REFUSAL_CODE_FINAL: RefusalCode
REFUSAL_CODE_NOT_ENROLLED: RefusalCode
REFUSAL_CODE_PROTOCOL_BROKEN: RefusalCode

class JoinRequest(_message.Message):
    __slots__ = ("version", "certificate_request", "signing_key", "proof", "renews")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    RENEWS_FIELD_NUMBER: _ClassVar[int]
    version: int
    certificate_request: bytes
    signing_key: bytes
    proof: bytes
    renews: bool
    def __init__(self, version: _Optional[int] = ..., certificate_request: _Optional[bytes] = ..., signing_key: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., renews: _Optional[bool] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("certificate", "sealing_key", "signing_key", "site")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SEALING_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    sealing_key: bytes
    signing_key: bytes
    site: str
    def __init__(self, certificate: _Optional[bytes] = ..., sealing_key: _Optional[bytes] = ..., signing_key: _Optional[bytes] = ..., site: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("version", "certificate_request", "proof")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    version: int
    certificate_request: bytes
    proof: bytes
    def __init__(self, version: _Optional[int] = ..., certificate_request: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class Up(_message.Message):
    __slots__ = ("hello", "offer", "chunk", "receipt_taken", "escalate", "keys_taken")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_TAKEN_FIELD_NUMBER: _ClassVar[int]
    ESCALATE_FIELD_NUMBER: _ClassVar[int]
    KEYS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    offer: Offer
    chunk: Chunk
    receipt_taken: ReceiptTaken
    escalate: Escalate
    keys_taken: KeysTaken
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., receipt_taken: _Optional[_Union[ReceiptTaken, _Mapping]] = ..., escalate: _Optional[_Union[Escalate, _Mapping]] = ..., keys_taken: _Optional[_Union[KeysTaken, _Mapping]] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("welcome", "progress", "receipt", "refusal", "tier_request", "escalated", "store")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    TIER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    ESCALATED_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    progress: Progress
    receipt: Receipt
    refusal: Refusal
    tier_request: TierRequest
    escalated: Escalated
    store: Store
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., tier_request: _Optional[_Union[TierRequest, _Mapping]] = ..., escalated: _Optional[_Union[Escalated, _Mapping]] = ..., store: _Optional[_Union[Store, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "software", "seen", "audit_head", "hub_keys")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    HUB_KEYS_FIELD_NUMBER: _ClassVar[int]
    version: int
    software: str
    seen: Seen
    audit_head: bytes
    hub_keys: KeysTaken
    def __init__(self, version: _Optional[int] = ..., software: _Optional[str] = ..., seen: _Optional[_Union[Seen, _Mapping]] = ..., audit_head: _Optional[bytes] = ..., hub_keys: _Optional[_Union[KeysTaken, _Mapping]] = ...) -> None: ...

class Seen(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("number", "object", "size", "urgent", "head")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    number: int
    object: bytes
    size: int
    urgent: bool
    head: bytes
    def __init__(self, number: _Optional[int] = ..., object: _Optional[bytes] = ..., size: _Optional[int] = ..., urgent: _Optional[bool] = ..., head: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("number", "offset", "data", "ask")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    number: int
    offset: int
    data: bytes
    ask: bool
    def __init__(self, number: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., ask: _Optional[bool] = ...) -> None: ...

class ReceiptTaken(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class KeysTaken(_message.Message):
    __slots__ = ("list",)
    LIST_FIELD_NUMBER: _ClassVar[int]
    list: bytes
    def __init__(self, list: _Optional[bytes] = ...) -> None: ...

class Escalate(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: bytes
    def __init__(self, study: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "store", "audit_head", "takes_additions", "hub_keys")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    TAKES_ADDITIONS_FIELD_NUMBER: _ClassVar[int]
    HUB_KEYS_FIELD_NUMBER: _ClassVar[int]
    version: int
    store: Store
    audit_head: bytes
    takes_additions: bool
    hub_keys: bytes
    def __init__(self, version: _Optional[int] = ..., store: _Optional[_Union[Store, _Mapping]] = ..., audit_head: _Optional[bytes] = ..., takes_additions: _Optional[bool] = ..., hub_keys: _Optional[bytes] = ...) -> None: ...

class Store(_message.Message):
    __slots__ = ("generation", "position", "past", "backup")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PAST_FIELD_NUMBER: _ClassVar[int]
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    generation: bytes
    position: int
    past: _containers.RepeatedCompositeFieldContainer[Past]
    backup: Backup
    def __init__(self, generation: _Optional[bytes] = ..., position: _Optional[int] = ..., past: _Optional[_Iterable[_Union[Past, _Mapping]]] = ..., backup: _Optional[_Union[Backup, _Mapping]] = ...) -> None: ...

class Past(_message.Message):
    __slots__ = ("generation", "position")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    generation: bytes
    position: int
    def __init__(self, generation: _Optional[bytes] = ..., position: _Optional[int] = ...) -> None: ...

class Backup(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("number", "durable")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    number: int
    durable: int
    def __init__(self, number: _Optional[int] = ..., durable: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("signed", "audit_head")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    audit_head: bytes
    def __init__(self, signed: _Optional[bytes] = ..., audit_head: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("number", "code", "what", "remedy", "again_after_ms", "limit")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    AGAIN_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    number: int
    code: RefusalCode
    what: str
    remedy: str
    again_after_ms: int
    limit: str
    def __init__(self, number: _Optional[int] = ..., code: _Optional[_Union[RefusalCode, str]] = ..., what: _Optional[str] = ..., remedy: _Optional[str] = ..., again_after_ms: _Optional[int] = ..., limit: _Optional[str] = ...) -> None: ...

class TierRequest(_message.Message):
    __slots__ = ("study", "kind")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    study: bytes
    kind: int
    def __init__(self, study: _Optional[bytes] = ..., kind: _Optional[int] = ...) -> None: ...

class Escalated(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: bytes
    def __init__(self, study: _Optional[bytes] = ...) -> None: ...
