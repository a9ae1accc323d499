"""HAProxy's replies: whole and understood, or an exception that says what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import haproxy
from saltern.haproxy import Server, Truncated

pytestmark = pytest.mark.unit

STATE_HEAD = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state"
    " srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port"
    " srv_check_addr srv_agent_addr srv_agent_port"
)
STATE_ROW = "3 prod 1 p1 127.0.0.1 2 4 1 1 2 15 3 4 6 0 0 0 slot.invalid 18101 - 0 0 - - 0"
STATE = f"1\n{STATE_HEAD}\n{STATE_ROW}\n3 prod 2 p2 ::1 0 12 1 1 2 15 3 4 6 0 0 0 slot.invalid 80 - 0 0 - - 0"

REPLIES = [
    ("one", "a\n\n", 1, ["a"]),
    ("an empty one", "\n", 1, [""]),
    ("several, some empty", "a\nb\n\n\nc\n\n", 3, ["a\nb", "", "c"]),
]


@pytest.mark.parametrize(("what", "text", "count", "replies"), REPLIES, ids=[row[0] for row in REPLIES])
def test_what_the_socket_sends_is_cut_into_replies(
    what: str, text: str, count: int, replies: list[str]
) -> None:
    assert haproxy.split_replies(text, count) == replies


BROKEN = [
    ("nothing", "", 1, "0 of 1 replies"),
    ("cut in a line", "IP chan", 1, "middle of a line"),
    ("cut after a line", "a\n", 1, "0 of 1 replies"),
    ("one reply missing", "a\n\n", 2, "1 of 2 replies"),
    ("one reply too many", "a\n\nb\n\n", 1, "2 of 1 replies"),
]


@pytest.mark.parametrize(("what", "text", "count", "message"), BROKEN, ids=[row[0] for row in BROKEN])
def test_an_incomplete_answer_is_never_taken_for_a_short_one(
    what: str, text: str, count: int, message: str
) -> None:
    with pytest.raises(Truncated, match=message):
        haproxy.split_replies(text, count)


@given(st.lists(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=1))))
def test_every_proper_beginning_of_an_answer_is_recognised_as_incomplete(replies: list[list[str]]) -> None:
    text = "".join("".join(f"{row}\n" for row in reply) + "\n" for reply in replies)
    assert haproxy.split_replies(text, len(replies)) == ["\n".join(reply) for reply in replies]
    for end in range(len(text)):
        with pytest.raises(Truncated):
            haproxy.split_replies(text[:end], len(replies))


VERDICTS = [
    ("set server prod/p1 state ready", "", True),
    ("set server prod/p1 state ready", "No such server.", False),
    ("set server prod/p1 addr 10.0.0.1 port 80", "IP changed from 'a' to 'b', port changed from", True),
    ("set server prod/p1 addr 10.0.0.1 port 80", "port changed from '8080' to '80' by 'x'", True),
    ("set server prod/p1 addr 10.0.0.1 port 80", "no need to change the addr, no need", True),
    ("set server prod/p1 addr 10.0.0.1 port 80", "Invalid addr '10.0.0.1' by 'stats socket command'", False),
    (
        "set server prod/p1 addr 10.0.0.1 port 80",
        "Update for the current server address family is only supported through configuration file",
        False,
    ),
    ("set map /x/instances.map p3 prod3", "entry not found.", False),
    ("bogus", "Unknown command, but maybe one of the following ones is a better match:\n  help", False),
    ("set server prod/p1 state ready", "Permission denied", False),
]


@pytest.mark.parametrize(("command", "reply", "fine"), VERDICTS)
def test_a_changing_command_has_succeeded_only_when_haproxy_says_so(
    command: str, reply: str, fine: bool
) -> None:
    verdict = haproxy.refusal(command, reply)
    assert (verdict is None) == fine
    if verdict is not None:
        assert command in str(verdict)
        assert reply.splitlines()[0] in str(verdict)


def test_the_servers_state_is_read() -> None:
    assert haproxy.parse_servers(STATE) == (
        Server("prod", "p1", "127.0.0.1", 18101, 2, 4, 1),
        Server("prod", "p2", "::1", 80, 0, 12),
    )


ADMIN = [(0x00, "ready"), (0x04, "ready"), (0x05, "maint"), (0x01, "maint"), (0x02, "maint"), (0x20, "maint")]
ADMIN += [(0x08, "drain"), (0x0C, "drain"), (0x10, "drain"), (0x09, "maint")]


@pytest.mark.parametrize(("bits", "state"), ADMIN)
def test_the_administrative_state_is_read_from_its_bits(bits: int, state: str) -> None:
    assert Server("prod", "p1", "", 0, 2, bits).admin_state == state


BAD_STATES = [
    ("nothing", ""),
    ("an error", "Can't find backend."),
    ("another format", STATE.replace("1\n", "2\n", 1)),
    ("no header", f"1\n{STATE_ROW}"),
    ("a column less", STATE.replace(" srv_port", "")),
    ("half a row", STATE[:-20]),
    ("letters for a number", STATE.replace("18101", "port")),
]


@pytest.mark.parametrize(("what", "reply"), BAD_STATES, ids=[row[0] for row in BAD_STATES])
def test_a_servers_state_that_is_not_one_is_refused(what: str, reply: str) -> None:
    with pytest.raises(Truncated):
        haproxy.parse_servers(reply)


STAT_HEAD = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,"
    "weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,"
    "rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,"
    "qtime,ctime,rtime,ttime,"
)


def stat_row(**cells: object) -> str:
    names = STAT_HEAD[2:].split(",")
    return ",".join(str(cells.get(name, "")) for name in names)


def test_the_statistics_are_read_and_only_those_asked_for() -> None:
    reply = "\n".join(
        [
            STAT_HEAD,
            stat_row(
                pxname="prod",
                svname="p1",
                scur=2,
                stot=9,
                hrsp_5xx=1,
                econ=3,
                rtime=12,
                check_status="* L7OK",
            ),
            stat_row(pxname="prod", svname="p2"),
            stat_row(pxname="prod", svname="BACKEND"),
        ]
    )
    both = haproxy.parse_stat(reply)
    assert [s.name for s in both] == ["p1", "p2"]
    one = haproxy.parse_stat(reply, frozenset({("prod", "p1")}))[0]
    assert (one.sessions, one.total, one.http_5xx, one.connect_errors, one.response_ms) == (2, 9, 1, 3, 12)
    assert one.check == "L7OK"


BAD_STATS = [
    ("nothing", ""),
    ("an error", "Unknown proxy"),
    ("half a row", f"{STAT_HEAD}\n{stat_row(pxname='prod', svname='p1')[:-9]}"),
    ("letters for a number", f"{STAT_HEAD}\n{stat_row(pxname='prod', svname='p1', scur='x')}"),
    ("a column less", STAT_HEAD.replace("eresp,", "")),
]


@pytest.mark.parametrize(("what", "reply"), BAD_STATS, ids=[row[0] for row in BAD_STATS])
def test_statistics_that_are_none_are_refused(what: str, reply: str) -> None:
    with pytest.raises(Truncated):
        haproxy.parse_stat(reply)


def test_maps_sessions_and_process_information_are_read() -> None:
    assert haproxy.parse_map("0x5607a4345b90 canary 3\n0x1 p1 prod1") == {"canary": "3", "p1": "prod1"}
    assert haproxy.parse_map("") == {}
    assert haproxy.parse_acl("0x55fb38d7f420 0:29") == {"0:29"}
    assert haproxy.parse_acl("") == frozenset()
    assert haproxy.parse_info("Name: HAProxy\nPid: 77")["Pid"] == "77"
    rows = (
        "0x55: proto=tcpv4 src=10.0.0.9:4711 fe=public be=prod srv=p1 ts=00 epoch=0 age=1h2m3s calls=2\n"
        "0x56: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 age=0s"
    )
    first, second = haproxy.parse_sessions(rows)
    assert (first.source, first.server, first.backend, first.age_s) == ("10.0.0.9:4711", "p1", "prod", 3723)
    assert second.server == "<none>"


@pytest.mark.parametrize(
    "parse", [haproxy.parse_map, haproxy.parse_acl, haproxy.parse_info, haproxy.parse_sessions]
)
def test_an_error_text_is_neither_map_nor_sessions_nor_information(parse: object) -> None:
    with pytest.raises(Truncated):
        parse("Unknown map identifier. Please use #<id> or <file>.")  # type: ignore[operator]


def test_commands_are_sent_in_lines_haproxy_can_hold() -> None:
    commands = [f"set server prod/p{n} addr 10.0.0.1 port 8080" for n in range(1000)]
    groups = list(haproxy.lines(commands))
    assert [c for group in groups for c in group] == commands
    assert all(len(";".join(group)) < 16_384 for group in groups)
    assert len(groups) < 10


@pytest.mark.parametrize("command", ["a;b", "a\nb", "add map x <<"])
def test_a_command_that_would_be_read_as_several_is_never_sent(command: str) -> None:
    with pytest.raises(ValueError, match="read as several"):
        list(haproxy.lines([command]))
