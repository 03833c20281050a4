"""The client engine against servers that are old, odd or somebody else (RFC 8489 Section 9.2.5)."""

from __future__ import annotations

import random as random_module

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.turn.client import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    Credentials,
    PeerRefused,
    RelayedDataReceived,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AddressFamily,
    Algorithm,
    AlternateDomain,
    AlternateServer,
    Attribute,
    ChannelNumber,
    Data,
    ErrorCode,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    SecurityFeature,
    UnknownAttribute,
    Userhash,
    Username,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
    nonce_cookie,
    userhash,
    verify_integrity,
    verify_integrity_sha256,
)
from knothole.wire.turn import encode_channel_data

LOCAL, SERVER = Address("192.168.1.2", 5000), Address("9.9.9.9", 3478)
RELAYED, MAPPED = Address("9.9.9.10", 50000), Address("1.1.1.1", 6000)
PEER = Address("2.2.2.2", 2000)
REALM = "old.test"
MD5_KEY = long_term_key("alice", REALM, "wonder")
SHA256_KEY = long_term_key("alice", REALM, "wonder", Algorithm.SHA256)
BOTH = PasswordAlgorithms((PasswordAlgorithm(Algorithm.MD5), PasswordAlgorithm(Algorithm.SHA256)))
COOKIE = nonce_cookie(SecurityFeature.PASSWORD_ALGORITHMS)
CHALLENGE = (Realm(REALM), Nonce(b"plain"))
GRANTED = (XorRelayedAddress(RELAYED), XorMappedAddress(MAPPED), Lifetime(600))


class Script:
    """An allocation whose server we play."""

    def __init__(self, transport: Transport = Transport.UDP, **options: object) -> None:
        self.now = 0.0
        self.transport = transport
        self.allocation = Allocation(
            local=LOCAL,
            server=SERVER,
            transport=transport,
            credentials=Credentials("alice", "wonder"),
            random=random_module.Random(1).randbytes,
            now=0.0,
            **options,  # type: ignore[arg-type]
        )
        self.events: list[object] = []
        self.sent: list[Message] = []
        self.drain()

    def drain(self) -> list[Message]:
        """The STUN messages sent since the last time."""
        self.sent = []
        for output in self.allocation.outputs():
            if isinstance(output, Transmit):
                self.sent.append(decode(output.datagram.payload))
            else:
                self.events.append(output)
        return self.sent

    def deliver(self, payload: bytes, source: Address = SERVER) -> list[Message]:
        self.allocation.receive(Datagram(source, LOCAL, payload), self.now)
        return self.drain()

    def say(
        self,
        request: Message,
        *attributes: Attribute,
        error: int | None = None,
        key: bytes | None = MD5_KEY,
        sha256_key: bytes | None = None,
        method: int | None = None,
    ) -> list[Message]:
        kind = MessageClass.SUCCESS
        if error is not None:
            kind, attributes = MessageClass.ERROR, (ErrorCode(error, "because"), *attributes)
        message = Message(kind, method or request.method, request.transaction_id, attributes)
        return self.deliver(encode(message, key=key, sha256_key=sha256_key))

    def challenge(self, *attributes: Attribute) -> Message:
        """Answer the first request with 401; returns the second."""
        (request,) = self.sent
        (signed,) = self.say(request, *(attributes or CHALLENGE), error=401, key=None)
        return signed

    def allocate(self) -> None:
        assert self.say(self.challenge(), *GRANTED) == []
        assert self.events == [Allocated(RELAYED, MAPPED, 600)]
        self.events.clear()

    def wait(self, seconds: float) -> list[Message]:
        """Let time pass; returns what was sent."""
        until, sent = self.now + seconds, []
        while (at := self.allocation.next_timeout()) is not None and at <= until:
            self.now = at
            self.allocation.handle_timeout(at)
            sent += self.drain()
        self.now = until
        return sent


class TestChallenges:
    def test_a_server_of_rfc_5389_gets_md5_and_sha1(self) -> None:
        script = Script()
        signed = script.challenge()
        assert signed.get(Username) == Username("alice")
        assert signed.get(Realm) == Realm(REALM) and signed.get(Nonce) == Nonce(b"plain")
        assert signed.get(PasswordAlgorithm) is None
        assert verify_integrity(signed, MD5_KEY) and not signed.has_integrity_sha256

    def test_sha256_is_chosen_when_it_is_offered_even_as_the_second(self) -> None:
        script = Script()
        signed = script.challenge(*CHALLENGE, BOTH)
        assert signed.get(PasswordAlgorithms) == BOTH
        assert signed.get(PasswordAlgorithm) == PasswordAlgorithm(Algorithm.SHA256)
        assert verify_integrity_sha256(signed, SHA256_KEY) and not signed.has_integrity
        script.say(signed, *GRANTED, key=None, sha256_key=SHA256_KEY)
        assert script.events == [Allocated(RELAYED, MAPPED, 600)]

    def test_md5_alone_is_taken_with_sha256_integrity(self) -> None:
        offer = PasswordAlgorithms((PasswordAlgorithm(9), PasswordAlgorithm(Algorithm.MD5)))
        signed = Script().challenge(*CHALLENGE, offer)
        assert signed.get(PasswordAlgorithm) == PasswordAlgorithm(Algorithm.MD5)
        assert verify_integrity_sha256(signed, MD5_KEY)

    def test_a_server_that_wants_the_name_hidden_gets_its_hash(self) -> None:
        features = SecurityFeature.PASSWORD_ALGORITHMS | SecurityFeature.USERNAME_ANONYMITY
        nonce = Nonce(nonce_cookie(features) + b"x")
        signed = Script().challenge(Realm(REALM), nonce, BOTH)
        assert signed.get(Userhash) == Userhash(userhash("alice", REALM))
        assert signed.get(Username) is None

    @pytest.mark.parametrize(
        "attributes",
        [
            (Realm(REALM), Nonce(COOKIE + b"bid down")),
            (Realm(REALM), Nonce(b"n"), PasswordAlgorithms((PasswordAlgorithm(9),))),
            (Realm(REALM), Nonce(b"n"), PasswordAlgorithms(())),
            (Realm(REALM),),
            (Nonce(b"n"),),
            (),
        ],
    )
    def test_challenges_that_must_not_be_met_are_not(self, attributes) -> None:
        script = Script()
        assert script.say(script.sent[0], *attributes, error=401, key=None) == []
        (failed,) = script.events
        assert isinstance(failed, AllocationFailed) and failed.code == 401

    def test_a_server_that_never_tires_of_new_nonces_is_given_up(self) -> None:
        script = Script()
        signed = script.challenge()
        for n in range(100):
            following = script.say(signed, Realm(REALM), Nonce(b"%d" % n), error=438, key=None)
            if not following:
                break
            (signed,) = following
            assert signed.get(Nonce) == Nonce(b"%d" % n)
        assert n < 6
        assert [event.code for event in script.events] == [438]

    def test_a_server_without_users_is_taken_as_it_is(self) -> None:
        script = Script()
        script.say(script.sent[0], *GRANTED, key=None)
        assert script.events == [Allocated(RELAYED, MAPPED, 600)]
        script.allocation.permit(PEER, 0.0)
        (request,) = script.drain()
        assert request.get(Username) is None and not request.has_integrity


class TestProofs:
    def test_over_udp_a_success_without_proof_is_as_if_it_had_not_come(self) -> None:
        script = Script()
        signed = script.challenge()
        script.say(signed, *GRANTED, key=None)
        script.say(signed, *GRANTED, key=b"wrong")
        assert script.events == []
        script.say(signed, *GRANTED)
        assert script.events == [Allocated(RELAYED, MAPPED, 600)]

    @pytest.mark.parametrize("code", [400, 403, 437, 441, 442, 486, 500, 508])
    def test_nor_is_an_error_without_proof_believed(self, code) -> None:
        script = Script()
        signed = script.challenge()
        script.say(signed, error=code, key=None)
        assert script.events == []
        retransmitted = script.wait(39.5)
        assert len(retransmitted) == 6
        (failed,) = script.events
        assert failed.code is None and str(code) in failed.reason

    @pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
    def test_on_a_stream_it_is_the_end(self, transport) -> None:
        script = Script(transport)
        script.say(script.challenge(), *GRANTED, key=b"wrong")
        (failed,) = script.events
        assert isinstance(failed, AllocationFailed) and "proof" in failed.reason

    def test_an_answer_with_a_bid_down_nonce_is_ignored(self) -> None:
        script = Script()
        script.say(script.challenge(), *GRANTED, Nonce(COOKIE + b"x"))
        assert script.events == []

    def test_only_the_server_is_heard_and_only_on_what_was_asked(self) -> None:
        script = Script()
        signed = script.challenge()
        good = Message(MessageClass.SUCCESS, Method.ALLOCATE, signed.transaction_id, GRANTED)
        script.deliver(encode(good, key=MD5_KEY), source=Address("9.9.9.9", 3479))
        script.say(signed, *GRANTED, method=Method.REFRESH)
        other = Message(MessageClass.SUCCESS, Method.ALLOCATE, bytes(12), GRANTED)
        script.deliver(encode(other, key=MD5_KEY))
        request = Message(MessageClass.REQUEST, Method.ALLOCATE, signed.transaction_id, GRANTED)
        script.deliver(encode(request, key=MD5_KEY))
        assert script.events == []

    @pytest.mark.parametrize("missing", range(3))
    def test_half_an_answer_is_none(self, missing) -> None:
        script = Script()
        script.say(script.challenge(), *(each for n, each in enumerate(GRANTED) if n != missing))
        assert [type(event) for event in script.events] == [AllocationFailed]

    def test_what_must_be_understood_and_is_not_ends_the_transaction(self) -> None:
        script = Script()
        script.say(script.challenge(), *GRANTED, UnknownAttribute(0x7FFE, b""))
        assert [type(event) for event in script.events] == [AllocationFailed]

    def test_an_address_of_the_wrong_family_is_given_back(self) -> None:
        script = Script(family=AddressFamily.IPV6)
        (delete,) = script.say(script.challenge(), *GRANTED)
        assert delete.method == Method.REFRESH and delete.get(Lifetime) == Lifetime(0)
        assert [type(event) for event in script.events] == [AllocationFailed]


class TestErrors:
    @pytest.mark.parametrize("code", [400, 403, 420, 440, 441, 442, 486, 500, 508, 600])
    def test_an_allocate_error_is_reported_with_its_code(self, code) -> None:
        script = Script()
        assert script.say(script.challenge(), error=code) == []
        assert script.events == [AllocationFailed(code, "because")]
        assert script.wait(1000) == []

    def test_a_reason_is_fit_for_a_terminal(self) -> None:
        script = Script()
        error = Message(
            MessageClass.ERROR,
            Method.ALLOCATE,
            script.sent[0].transaction_id,
            (ErrorCode(403, "no\x1b[2J, sorry\0"),),
        )
        script.deliver(encode(error))
        assert script.events == [AllocationFailed(403, "no[2J, sorry")]

    @pytest.mark.parametrize("is_signed", [False, True])
    def test_a_mismatch_is_answered_with_a_delete_and_another_try(self, is_signed) -> None:
        script = Script()
        if is_signed:
            (delete,) = script.say(script.challenge(), error=437)
        else:  # as coturn does
            (unsigned,) = script.say(script.sent[0], error=437, key=None)
            (delete,) = script.say(unsigned, *CHALLENGE, error=401, key=None)
        assert delete.method == Method.REFRESH and delete.get(Lifetime) == Lifetime(0)
        assert verify_integrity(delete, MD5_KEY)
        (again,) = script.say(delete, Lifetime(0))
        assert again.method == Method.ALLOCATE
        assert script.say(again, error=437) == []
        assert script.events == [AllocationFailed(437, "because")]

    def test_try_alternate_names_the_server_and_its_certificate(self) -> None:
        script = Script()
        elsewhere = Address("8.8.8.8", 3478)
        script.say(
            script.sent[0],
            AlternateServer(elsewhere),
            AlternateDomain("turn.example.org"),
            error=300,
            key=None,
        )
        assert script.events == [AllocationFailed(300, "because", elsewhere, "turn.example.org")]

    def test_try_alternate_back_to_the_same_server_is_a_plain_failure(self) -> None:
        script = Script()
        script.say(script.sent[0], AlternateServer(SERVER), error=300, key=None)
        assert script.events == [AllocationFailed(300, "because")]

    @pytest.mark.parametrize("code", [401, 437, 441])
    @pytest.mark.parametrize("purpose", ["refresh", "permission", "channel"])
    def test_the_allocation_is_lost_when_the_server_knows_it_or_us_no_more(
        self, code, purpose
    ) -> None:
        script = Script()
        script.allocate()
        if purpose == "refresh":
            (request,) = script.wait(480.0)
        else:
            act = script.allocation.permit if purpose == "permission" else None
            (act or script.allocation.bind_channel)(PEER, script.now)
            (request,) = script.drain()
        script.say(request, *(CHALLENGE if code == 401 else ()), error=code)
        assert script.events == [AllocationLost(code, "because")]
        assert script.wait(1000) == []

    def test_a_server_that_insists_on_the_username_goes_on_with_the_old_one(self) -> None:
        """As coturn does. It is asked with the new one once, and not again."""
        script = Script()
        script.allocate()
        script.allocation.set_credentials(Credentials("renewed", "again"), script.now)
        new_key = long_term_key("renewed", REALM, "again", Algorithm.MD5)
        (tried,) = script.wait(480.0)
        assert tried.get(Username) == Username("renewed") and verify_integrity(tried, new_key)
        (old,) = script.say(tried, error=441, key=new_key)
        assert old.get(Username) == Username("alice") and verify_integrity(old, MD5_KEY)
        script.say(old, Lifetime(600))
        script.allocation.set_credentials(Credentials("newest", "again"), script.now)
        (refresh,) = script.wait(480.0)
        assert refresh.get(Username) == Username("alice") and script.events == []

    def test_renewed_credentials_that_are_wrong_do_no_harm(self) -> None:
        script = Script()
        script.allocate()
        script.allocation.set_credentials(Credentials("renewed", "again"), script.now)
        (tried,) = script.wait(480.0)
        (old,) = script.say(tried, *CHALLENGE, error=401, key=None)
        assert old.get(Username) == Username("alice")
        script.say(old, Lifetime(600))
        assert script.events == []

    @pytest.mark.parametrize("code", [400, 500, 508])
    def test_a_refresh_error_that_may_pass_is_tried_again_until_the_end(self, code) -> None:
        script = Script()
        script.allocate()
        (request,) = script.wait(480.0)
        script.say(request, error=code)
        (request,) = script.wait(5.0)
        assert request.method == Method.REFRESH and script.events == []
        script.say(request, Lifetime(600))
        assert script.wait(479.0) == []

    @pytest.mark.parametrize("code", [400, 403, 443, 508])
    def test_a_permission_error_refuses_the_peers_of_that_host(self, code) -> None:
        script = Script()
        script.allocate()
        neighbour = Address(PEER.host, 2001)
        for peer in (neighbour, PEER):
            script.allocation.permit(peer, script.now)
        (request,) = script.drain()
        script.say(request, error=code)
        assert script.events == [
            PeerRefused(PEER, code, "because"),
            PeerRefused(neighbour, code, "because"),
        ]

    def test_a_refused_channel_leaves_the_other_peers_of_the_host_their_permission(self) -> None:
        script = Script()
        script.allocate()
        script.allocation.bind_channel(PEER, script.now)
        (request,) = script.drain()
        neighbour = Address(PEER.host, 2001)
        script.allocation.permit(neighbour, script.now)
        assert script.drain() == []
        (permission,) = script.say(request, error=403)
        assert script.events == [PeerRefused(PEER, 403, "because")]
        assert permission.method == Method.CREATE_PERMISSION
        assert permission.get(XorPeerAddress) == XorPeerAddress(neighbour)

    def test_a_refused_peer_may_be_asked_for_again(self) -> None:
        script = Script()
        script.allocate()
        script.allocation.permit(PEER, script.now)
        script.say(script.drain()[0], error=508)
        script.allocation.permit(PEER, script.now)
        (request,) = script.drain()
        script.say(request)
        script.allocation.send(PEER, b"now", 0, script.now)
        (indication,) = script.drain()
        assert indication.get(Data) == Data(b"now")

    def test_channels_out_of_step_end_the_allocation(self) -> None:
        script = Script()
        script.allocate()
        script.allocation.bind_channel(PEER, script.now)
        (request,) = script.drain()
        (delete,) = script.say(request, error=400)
        assert delete.method == Method.REFRESH and delete.get(Lifetime) == Lifetime(0)
        (lost,) = script.events
        assert isinstance(lost, AllocationLost) and lost.code == 400

    def test_a_permission_request_that_nobody_answers_is_repeated(self) -> None:
        script = Script()
        script.allocate()
        script.allocation.permit(PEER, script.now)
        script.drain()
        sent = script.wait(100.0)
        assert len({message.transaction_id for message in sent}) == 3
        assert script.events == []


class TestIncoming:
    @pytest.fixture
    def script(self) -> Script:
        script = Script()
        script.allocate()
        script.allocation.bind_channel(PEER, script.now)
        (request,) = script.drain()
        script.number = request.get(ChannelNumber).value
        script.say(request)
        return script

    def indicate(self, script, *attributes, method=Method.DATA) -> list[object]:
        message = Message(MessageClass.INDICATION, method, bytes(12), attributes)
        script.deliver(encode(message))
        return script.events

    def test_data_comes_by_either_way(self, script) -> None:
        script.deliver(encode_channel_data(script.number, b"one", False))
        script.deliver(encode_channel_data(script.number, b"two", True))
        self.indicate(script, XorPeerAddress(PEER), Data(b"three"))
        assert script.events == [
            RelayedDataReceived(Datagram(PEER, RELAYED, payload))
            for payload in (b"one", b"two", b"three")
        ]

    @pytest.mark.parametrize(
        "attributes",
        [
            (Data(b"x"),),
            (XorPeerAddress(PEER),),
            (XorPeerAddress(Address("7.7.7.7", 7)), Data(b"nobody asked for that host")),
            (XorPeerAddress(PEER), Data(b"x"), UnknownAttribute(0x7FFE, b"")),
        ],
    )
    def test_indications_that_are_not_right_are_dropped(self, script, attributes) -> None:
        assert self.indicate(script, *attributes) == []

    def test_so_are_other_methods_and_other_channels(self, script) -> None:
        for method in (Method.SEND, Method.BINDING, 0x123):
            assert self.indicate(script, XorPeerAddress(PEER), Data(b"x"), method=method) == []
        script.deliver(encode_channel_data(script.number + 1, b"x", False))
        script.deliver(encode_channel_data(script.number, b"x", False)[:-1])
        assert script.events == []

    def test_after_the_end_nothing_is_delivered(self, script) -> None:
        script.allocation.close(script.now)
        script.drain()
        script.deliver(encode_channel_data(script.number, b"x", False))
        self.indicate(script, XorPeerAddress(PEER), Data(b"x"))
        script.allocation.send(PEER, b"x", 0, script.now)
        script.allocation.permit(PEER, script.now)
        script.allocation.bind_channel(PEER, script.now)
        assert script.drain() == [] and script.events == []
