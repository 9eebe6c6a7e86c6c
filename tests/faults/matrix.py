"""The fault matrix as data: each fault with the code that doctor names first, and set-ups without a fault.

A case makes two machines (tests.faults.world), brings a tunnel up at both ends, lets it work once, injects its
fault by scripts, and runs doctor. `@NAME@` stands for a key. Where the fault keeps the tunnel from coming up,
`starts` is False.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.world import BACKENDS, CLIENT, SERVER
from tests.interop.pairs import KERNEL
from wgquick.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS, GO = BACKENDS
NO_DAEMON = "there is no daemon"
MOVES_ALONG = "the device moves with its link"
NO_COUNTERS = "wireguard-go does not count packets from addresses outside AllowedIPs"


class Case(NamedTuple):
    """One set-up, and what changes it. Scripts are bash, run with -e.

    `before` runs at each place before the tunnel comes up, `after` when it has worked. `at` is where doctor runs.
    `absent` says of a backend why it cannot be tried on it. `wants` is the address to be reached before the fault,
    "" if nothing can be.
    """

    name: str
    code: str = ""
    here: str = CLIENT
    there: str = SERVER
    before_here: str = ""
    before_there: str = ""
    before_between: str = ""
    after_here: str = ""
    after_there: str = ""
    after_between: str = ""
    starts: bool = True
    wants: str = "10.66.0.1"
    kills: bool = False
    """Whether the daemon here is killed."""
    pings: str = ""
    """The address that is pinged from here until the end."""
    pings_from: str = "here"
    twin: bool = False
    """Whether the router is a second client with the same key, and pings too."""
    severity: str = ""
    """The severity of doctor's first finding, if it is not the usual one."""
    says: str = ""
    """A part of doctor's text: the rule that drops packets, for example."""
    other_file: bool = False
    """doctor gets the other end's file (--peer-config)."""
    late: float = 0.0
    """The seconds by which the client's initiations are behind, as those of a clock that was set back."""
    is_busy: bool = False
    """A program at the other end answers with cookies alone, as a server under load does."""
    listen: float = 0.0
    """The seconds for which doctor listens (--listen)."""
    at: str = "here"
    client: str = ""
    """The backend at `here`, if it is another than at `there`."""
    absent: Mapping[str, str] = MappingProxyType({})
    options: Options = Options(backend="userspace")
    doctor: tuple[tuple[str, str], ...] = ()


def edited(text: str, *changes: tuple[str, str]) -> str:
    """The text with parts replaced; the text has each of them."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def interface(text: str, *lines: str) -> str:
    """The text with more lines in [Interface]."""
    return edited(text, ("[Peer]", "\n".join((*lines, "[Peer]"))))


def routing(networks: str) -> str:
    """The client's text with these AllowedIPs."""
    return edited(CLIENT, ("10.66.0.0/24", networks))


HOLDER = """python3 -c '
import os, socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("", 4000))
os.fork() and os._exit(0)
os.setsid()
for each in range(3): os.close(each)
time.sleep(100)'"""
FULL = edited(CLIENT, ("10.66.0.0/24", "0.0.0.0/0, ::/0"), ("10.66.0.2/24", "10.66.0.2/24, fd66::2/64"))
FULL_SERVER = edited(SERVER, ("10.66.0.1/24", "10.66.0.1/24, fd66::1/64"), ("2/32", "2/32, fd66::2/128"))
NAMED = edited(CLIENT, ("198.51.100.2", "vpn.test"))
SIX = edited(CLIENT, ("198.51.100.2", "[2001:db8:2::2]"))
MARKED = interface(CLIENT, "FwMark = 0x77")
DNS = interface(CLIENT, "DNS = 10.66.0.1")
LAN = (
    "ip link add lan0 type veth peer name lan1; ip addr add 10.5.0.1/24 dev lan0; "
    "ip link set lan0 up; ip link set lan1 up"
)
BRIDGED = (
    "ip link add br0 type bridge; ip link set eth0 master br0; ip addr flush dev eth0; "
    "ip addr add 192.0.2.2/24 dev br0; ip link set br0 up; ip route add default via 192.0.2.1; "
    "until ping -c1 -W1 -q 10.66.0.1 >/dev/null; do :; done; "
)
HOSTS = "echo 198.51.100.2 vpn.test >>/etc/hosts"
EXTRA = "[Peer]\nPublicKey = @other@\nAllowedIPs = 10.66.0.9/32\n"
RESOLVER = """python3 -c '
import os, socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
os.fork() and os._exit(0)
os.setsid()
for each in range(3): os.close(each)
while True:
    query, sender = server.recvfrom(512)
    server.sendto(query[:2] + bytes([0x81, 0x80]) + query[4:], sender)'"""
SECOND = edited(
    CLIENT, ("@here_secret@", "@other_secret@"), ("10.66.0.2/24", "10.67.0.2/24"), ("10.66.0.0/24", "10.67.0.0/24")
)

NFT_OUT = "nft add table inet guard; nft add chain inet guard out '{ type filter hook output priority 0; }'; "
NFT_IN = "nft add table inet guard; nft add chain inet guard in '{ type filter hook input priority 0; }'; "
NFT_FORWARD = "nft add table inet guard; nft add chain inet guard way '{ type filter hook forward priority 0; }'; "
NFT_RAW = (
    "nft add table inet guard; nft add chain inet guard raw '{ type filter hook prerouting priority -300; }'; "
)
NFT_LAST = (
    "nft add table inet guard; nft add chain inet guard last '{ type filter hook postrouting priority 0; }'; "
)
NFT_LINK = (
    "nft add table netdev guard; "
    "nft add chain netdev guard link '{ type filter hook ingress device eth0 priority 0; }'; "
)
FORWARDS = "echo 1 >/proc/sys/net/ipv4/ip_forward; "
MASQUERADE = "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE"
FIREWALLD = """nft -f - <<'X'
table inet firewalld {
  chain allowed {
    tcp dport 22 accept
  }
  chain public {
    jump allowed
    meta l4proto { icmp, icmpv6 } accept
  }
  chain zones {
    iifname vmap { "eth0" : goto public }
    goto public
  }
  chain input {
    type filter hook input priority 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump zones
    reject with icmpx admin-prohibited
  }
}
X
"""
SETS = """nft -f - <<'X'
table inet guard {
  set open {
    type inet_proto . inet_service
    elements = { tcp . 22, udp . 53 }
  }
  chain input {
    type filter hook input priority 0; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    iif lo accept
    meta l4proto . th dport @open accept
  }
}
X
"""

HERE = (
    Case("the interface was never brought up", "not-up", starts=False),
    Case("the link was deleted", "not-up", after_here="ip link delete wg0"),
    Case("the link was moved to another namespace", "not-up", says="moved to another one",
         absent={KERNEL: MOVES_ALONG},
         after_here="ip netns add inner; ip link set wg0 netns inner"),
    Case("the link was renamed", "not-up", says="renamed to vpn0",
         after_here="ip link set wg0 down; ip link set wg0 name vpn0; ip link set vpn0 up"),
    Case("the link was set down", "not-up", after_here="ip link set wg0 down"),
    Case("the daemon was killed", "not-up", kills=True, absent={KERNEL: NO_DAEMON}),
    Case("another program uses the port", "port-in-use", here=interface(CLIENT, "ListenPort = 4000"), starts=False,
         before_here=HOLDER),
    Case("AllowedIPs have the uplink's network", "net-in-use", here=routing("10.66.0.0/24, 192.0.2.0/24"),
         starts=False),
    Case("the file has no private key", "key-missing", here=edited(CLIENT, ("PrivateKey = @here_secret@\n", "")),
         wants=""),
    Case("the file's MTU is too small for IPv6", "low-mtu", here=interface(FULL, "MTU = 1200"), starts=False),
    Case("an MTU too small for IPv6 was set by hand", "low-mtu", here=FULL, there=FULL_SERVER,
         after_here="ip link set mtu 1200 dev wg0"),
    Case("the peer has no AllowedIPs", "peer-without-allowed-ips", wants="",
         here=edited(CLIENT, ("AllowedIPs = 10.66.0.0/24\n", ""))),
    Case("AllowedIPs lack the tunnel's own network", "tunnel-net-unclaimed", wants="",
         says="own network, 10.66.0.0/24", here=routing("192.168.5.0/24")),
    Case("AllowedIPs have only this end's own address", "tunnel-net-unclaimed", wants="",
         here=routing("10.66.0.2/32")),
    Case("the Address is in the uplink's network", "net-in-use", wants="", says="is the network of eth0 too",
         here=edited(CLIENT, ("10.66.0.2", "192.0.2.9"))),
    Case("the private key was removed", "key-missing", after_here="wg set wg0 private-key /dev/null"),
    Case("the file has a new private key", "key-differs",
         after_here="sed -i 's|^PrivateKey.*|PrivateKey = @other_secret@|' /etc/wireguard/wg0.conf"),
    Case("the peer's PublicKey is this interface's own", "peer-is-self", here=edited(CLIENT, ("@there@", "@here@")),
         wants=""),
    Case("the peer's PublicKey is this interface's private key", "public-key-is-private", wants="",
         here=edited(CLIENT, ("@there@", "@here_secret@"))),
    Case("the peer was removed", "peer-missing", after_here="wg set wg0 peer @there@ remove"),
    Case("the preshared key was set by hand", "psk-differs",
         after_here="echo @psk@ >/run/psk; wg set wg0 peer @there@ preshared-key /run/psk"),
    Case("a preshared key was added to the file", "psk-differs",
         after_here="echo 'PresharedKey = @psk@' >>/etc/wireguard/wg0.conf"),
    Case("AllowedIPs were set by hand", "allowed-ips-differ",
         after_here="wg set wg0 peer @there@ allowed-ips 10.66.1.0/24"),
    Case("two peers have the same network in AllowedIPs", "allowed-ip-moved", wants="",
         here=CLIENT + edited(EXTRA, ("10.66.0.9/32", "10.66.0.0/24"))),
    Case("a network was moved to another peer by hand", "allowed-ip-moved",
         after_here="wg set wg0 peer @other@ allowed-ips 10.66.0.0/24"),
    Case("the listen port was changed by hand", "port-differs", here=interface(CLIENT, "ListenPort = 4000"),
         after_here="wg set wg0 listen-port 4001"),
    Case("the fwmark was changed by hand", "mark-differs", here=MARKED, after_here="wg set wg0 fwmark 0x78"),
    Case("a full tunnel's fwmark was removed", "mark-differs", here=FULL, there=FULL_SERVER,
         after_here="wg set wg0 fwmark 0"),
    Case("the fwmark of wg-quick's full tunnel was removed", "mark-differs", here=FULL, there=FULL_SERVER,
         doctor=(("quick", "1"),), after_here="wg set wg0 fwmark 0"),
    Case("a rule of wg-quick's full tunnel was removed", "rule-missing", here=FULL, there=FULL_SERVER,
         doctor=(("quick", "1"),), after_here="ip rule del not fwmark 51820 table 51820"),
    Case("the address was removed", "address-missing", after_here="ip addr del 10.66.0.2/24 dev wg0"),
    Case("the IPv6 address was removed", "address-missing", here=FULL, there=FULL_SERVER,
         after_here="ip addr del fd66::2/64 dev wg0"),
    Case("the route was removed", "route-missing",
         here=routing("10.66.0.0/24, 10.20.0.0/16"), after_here="ip route del 10.20.0.0/16"),
    Case("the route of a numbered table was removed", "route-missing", here=interface(CLIENT, "Table = 77"),
         after_here="ip route flush table 77"),
    Case("a full tunnel's route was removed", "route-missing", here=FULL, there=FULL_SERVER,
         after_here="ip route flush table 51820"),
    Case("a rule of a full tunnel was removed", "rule-missing", here=FULL, there=FULL_SERVER,
         after_here="ip rule del not fwmark 51820 table 51820"),
    Case("an IPv6 rule of a full tunnel was removed", "rule-missing", here=FULL, there=FULL_SERVER,
         after_here="ip -6 rule del not fwmark 51820 table 51820"),
    Case("the rule with suppress_prefixlength was removed", "rule-missing", here=FULL, there=FULL_SERVER,
         after_here="ip rule del table main suppress_prefixlength 0"),
    Case("a rule of priority 5 looks up the main table", "route-shadowed", here=FULL, there=FULL_SERVER,
         after_here="ip rule add pref 5 table main"),
    Case("a rule of priority 100 looks up the main table", "route-shadowed", here=FULL, there=FULL_SERVER,
         says="by the policy routing rule with the priority 100", after_here="ip rule add pref 100 lookup main"),
    Case("a blackhole rule matches the tunnel's network", "route-shadowed", here=FULL, there=FULL_SERVER,
         says="this host drops packets to 10.66.0.0/24 of this peer's AllowedIPs",
         after_here="ip rule add pref 1 to 10.66.0.0/24 blackhole"),
    Case("a blackhole route has the other end's tunnel address", "route-shadowed", says="blackhole",
         after_here="ip route add blackhole 10.66.0.1/32"),
    Case("IPv6 was disabled on the interface", "address-missing", here=FULL, there=FULL_SERVER,
         says="net.ipv6.conf.wg0.disable_ipv6=0", after_here="sysctl -q net.ipv6.conf.wg0.disable_ipv6=1"),
    Case("IPv6 was disabled on the host", "address-missing", here=FULL, there=FULL_SERVER,
         says="net.ipv6.conf.all.disable_ipv6=0", after_here="sysctl -q net.ipv6.conf.all.disable_ipv6=1"),
    Case("a more specific route leads to another link", "route-shadowed",
         after_here="ip route add 10.66.0.1/32 via 192.0.2.1"),
    Case("several routes and a rule lead to another link", "route-shadowed",
         here=routing("10.66.0.0/24, 10.20.0.0/16"),
         after_here="ip route add 10.20.0.0/17 via 192.0.2.1; ip route add 10.20.0.0/24 via 192.0.2.1; "
         "ip rule add pref 5 to 10.20.0.0/16 table 99; ip route add 10.20.0.0/16 via 192.0.2.1 table 99"),
    Case("the firewall rules were flushed", "firewall-missing", here=FULL, there=FULL_SERVER,
         after_here="nft flush ruleset"),
    Case("src_valid_mark was set back to 0", "sysctl-reverted", here=FULL, there=FULL_SERVER,
         after_here="sysctl -q net.ipv4.conf.all.src_valid_mark=0"),
    Case("the MTU was changed by hand", "mtu-differs", here=interface(CLIENT, "MTU = 1400"),
         after_here="ip link set mtu 1300 dev wg0"),
    Case("resolv.conf was overwritten", "dns-replaced", here=DNS, options=Options(backend="userspace", dns="file"),
         after_here="echo nameserver 192.0.2.53 >/etc/resolv.conf"),
    Case("the DNS server does not answer", "dns-silent", here=DNS,
         options=Options(backend="userspace", dns="file")),
    Case("the DNS server is not in AllowedIPs", "dns-silent", here=interface(CLIENT, "DNS = 10.77.0.53"),
         says="no peer's AllowedIPs has 10.77.0.53", options=Options(backend="userspace", dns="file")),
    Case("a rule for the tunnel's source address leads to another link", "route-shadowed",
         says="packets from 10.66.0.2",
         after_here="ip rule add pref 10 from 10.66.0.2 lookup 99; ip route add default via 192.0.2.1 table 99"),
    Case("this host's clock is behind", "clock-wrong", after_here="touch -d '+3 days' /etc/wireguard/wg0.conf"),
    Case("two interfaces have the same private key", "one-key-two-places", after_here="@up@ copy"),
)  # fmt: skip

OUTSIDE = (
    Case("the device has no endpoint", "endpoint-missing",
         # With another port, as the other end would soon call, and its endpoint be known again.
         after_here="wg set wg0 listen-port 0 peer @there@ remove; "
         "wg set wg0 peer @there@ allowed-ips 10.66.0.0/24; ip route replace 10.66.0.0/24 dev wg0",
         after_there="wg set wg0 peer @here@ remove"),
    Case("the endpoint's name does not resolve", "endpoint-unresolved", here=NAMED, starts=False),
    Case("the endpoint's name has a new address", "endpoint-moved", here=NAMED, before_here=HOSTS,
         after_here="echo 127.0.0.1 localhost >/etc/hosts; echo 198.51.100.2 vpn.test >>/etc/hosts; "
         "wg set wg0 peer @there@ endpoint 198.51.100.3:51820"),
    Case("the default route was removed", "endpoint-no-route", after_here="ip route del default"),
    Case("the IPv6 default route was removed", "endpoint-no-route", here=SIX, after_here="ip -6 route del default"),
    Case("a blackhole route has the endpoint", "endpoint-no-route",
         after_here="ip route add blackhole 198.51.100.2"),
    Case("AllowedIPs 0.0.0.0/1 and 128.0.0.0/1 include the endpoint", "endpoint-in-tunnel",
         here=routing("0.0.0.0/1, 128.0.0.0/1"),
         wants=""),
    Case("a route to the endpoint leads into the tunnel", "endpoint-in-tunnel",
         after_here="ip route add 198.51.100.2 dev wg0"),
    Case("an unreachable rule matches the endpoint", "endpoint-no-route",
         after_here="ip rule add pref 1 to 198.51.100.2 unreachable"),
    Case("a blackhole rule matches the endpoint's port", "endpoint-no-route",
         after_here="ip rule add pref 1 ipproto 17 dport 51820 blackhole"),
    Case("IPv6 was disabled on the uplink", "endpoint-no-route", here=SIX,
         after_here="sysctl -q net.ipv6.conf.eth0.disable_ipv6=1"),
    Case("the uplink was set down", "endpoint-no-route", after_here="ip link set eth0 down"),
    Case("a bridge chain drops packets to the endpoint", "output-blocked",
         says="between br0 and its links, by `udp dport "
         "51820 drop' in chain out of table bridge guard", after_here=BRIDGED + "nft add table bridge guard; "
         "nft add chain bridge guard out '{ type filter hook output priority 0; }'; "
         "nft add rule bridge guard out udp dport 51820 drop"),
    Case("a bridge chain drops the endpoint's answers", "input-blocked",
         says="between eth0 and br0, by `udp sport 51820 "
         "drop' in chain in of table bridge guard", after_here=BRIDGED + "nft add table bridge guard; "
         "nft add chain bridge guard in '{ type filter hook input priority 0; }'; "
         "nft add rule bridge guard in udp sport 51820 drop"),
    Case("ARP is off on the uplink", "gateway-silent", says="`ip link set eth0 arp on'",
         after_here="ip link set eth0 arp off"),
    Case("the gateway's hardware address was set by hand", "gateway-differs", says="than 02:00:00:00:00:99",
         after_here="ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0"),
    Case("another host has the uplink's address", "uplink-address-taken", says="answers an ARP request",
         after_between="ip addr add 192.0.2.2/32 dev r0"),
    Case("the uplink has no carrier", "uplink-down", after_between="ip link set r0 down"),
    Case("no host has the gateway's address", "gateway-silent", after_between="ip addr del 192.0.2.1/24 dev r0",
         after_here="ip neigh flush dev eth0"),
    Case("the endpoint is this host's address", "endpoint-is-self",
         here=edited(CLIENT, ("198.51.100.2", "192.0.2.2")),
         wants=""),
    Case("the endpoint is this interface's own port", "endpoint-is-self", wants="",
         here=interface(edited(CLIENT, ("198.51.100.2:51820", "192.0.2.2:4000")), "ListenPort = 4000")),
    Case("the endpoint is a broadcast address", "endpoint-no-route", wants="", says="is the broadcast address",
         here=edited(CLIENT, ("198.51.100.2", "255.255.255.255"))),
    Case("the uplink has an address in the endpoint's network", "endpoint-unreachable",
         says="in eth0's own network", after_here="ip addr add 198.51.100.9/24 dev eth0"),
    Case("a rule for the fwmark leads to a silent gateway", "gateway-silent", here=MARKED,
         after_here="ip route add default via 203.0.113.9 table 77; ip rule add pref 90 fwmark 0x77 lookup 77"),
    Case("a firewall rule clears the fwmark of packets to the endpoint", "endpoint-in-tunnel", here=FULL,
         there=FULL_SERVER,
         says="a firewall rule changes their mark", after_here="nft add table inet guard; "
         "nft add chain inet guard out '{ type route hook output priority -150; }'; "
         "nft add rule inet guard out udp dport 51820 meta mark set 0"),
    Case("the endpoint is an address in the tunnel", "endpoint-in-tunnel", wants="",
         here=edited(CLIENT, ("198.51.100.2", "10.66.0.1"))),
    Case("the endpoint's name has an unreachable IPv6 address", "endpoint-unreachable", here=NAMED, wants="",
         says="vpn.test has other addresses too: 198.51.100.2:51820",
         before_here="echo multi on >/etc/host.conf; echo 2001:db8:2::77 vpn.test >>/etc/hosts; " + HOSTS),
    Case("nftables drops packets to the endpoint", "output-blocked",
         after_here=NFT_OUT + "nft add rule inet guard out udp dport 51820 drop"),
    Case("iptables drops packets to the endpoint", "output-blocked",
         after_here="iptables -A OUTPUT -p udp --dport 51820 -j DROP"),
    Case("legacy iptables drops packets to the endpoint", "output-blocked",
         says="the rule `-A OUTPUT -p udp -m udp --dport 51820 -j DROP' in chain OUTPUT of table filter "
         "(iptables-legacy)", after_here="iptables-legacy -A OUTPUT -p udp --dport 51820 -j DROP"),
    Case("a postrouting chain drops packets to the endpoint", "output-blocked",
         says="by `udp dport 51820 drop' in chain last of table inet guard",
         after_here=NFT_LAST + "nft add rule inet guard last udp dport 51820 drop"),
    Case("an egress chain drops packets to the endpoint", "output-blocked",
         says="after the firewall's output chains",
         after_here="nft add table netdev guard; "
         "nft add chain netdev guard way '{ type filter hook egress device eth0 priority 0; }'; "
         "nft add rule netdev guard way udp dport 51820 drop"),
    Case("an IPsec policy blocks packets to the endpoint", "output-blocked", says="`ip xfrm policy'",
         after_here="ip xfrm policy add dir out dst 198.51.100.2/32 action block"),
    Case("this host's firewall drops handshakes, and the last session still works", "output-blocked",
         says="the tunnel works with its last session",
         after_here="iptables -A OUTPUT -p udp --dport 51820 -m length --length 176 -j DROP"),
    Case("a router drops handshakes, and the last session still works", "no-answer", severity="warning",
         says="the tunnel works with its last session",
         after_between=NFT_FORWARD + "nft add rule inet guard way udp dport 51820 udp length 156 drop"),
    Case("the other host is off", "endpoint-unreachable", after_there="ip link set eth0 down"),
    Case("a router drops packets to the endpoint", "no-answer",
         after_between=NFT_FORWARD + "nft add rule inet guard way udp dport 51820 drop"),
    Case("the other end has no peer with this public key", "no-answer",
         after_there="wg set wg0 peer @here@ remove"),
    Case("the other end's firewall drops packets to its port", "no-answer",
         after_there=NFT_IN + "nft add rule inet guard in udp dport 51820 drop"),
    Case("the other end's firewall drops its answers", "no-answer",
         after_there=NFT_OUT + "nft add rule inet guard out udp sport 51820 drop"),
    Case("the other end has a blackhole route to this host", "no-answer",
         after_there="ip route add blackhole 192.0.2.0/24"),
    Case("the peer's PublicKey is not the other end's", "no-answer", here=edited(CLIENT, ("@there@", "@other@")),
         wants=""),
)  # fmt: skip

ANSWERS = (
    Case("the other end's interface is not up", "endpoint-refuses", after_there="ip link delete wg0"),
    Case("the endpoint has the wrong port", "endpoint-refuses", wants="",
         here=edited(CLIENT, (":51820", ":51999"))),
    Case("the other end's interface is not up, over IPv6", "endpoint-refuses", here=SIX,
         after_there="ip link delete wg0"),
    Case("the other end's firewall rejects packets to its port", "endpoint-refuses",
         after_there=NFT_IN + "nft add rule inet guard in udp dport 51820 reject"),
    Case("a router rejects every port but 53", "endpoint-refuses",
         says="192.0.2.1, a router or firewall on the way",
         after_between=NFT_FORWARD + "nft add rule inet guard way ip saddr 192.0.2.2 udp dport != 53 reject"),
    Case("a router redirects the port to a closed one", "endpoint-refuses",
         after_here="wg set wg0 listen-port 4444",
         after_between="nft add table ip nat; "
         "nft add chain ip nat pre '{ type nat hook prerouting priority -100; }'; "
         "nft add rule ip nat pre udp dport 51820 dnat to 198.51.100.2:51999"),
    Case("a router has no route to the endpoint", "endpoint-unreachable",
         after_between="ip route add unreachable 198.51.100.2"),
    Case("a router rejects packets to the endpoint", "endpoint-unreachable",
         after_between=NFT_FORWARD +
         "nft add rule inet guard way udp dport 51820 reject with icmpx admin-prohibited"),
    Case("nftables rejects packets to the endpoint", "output-blocked",
         after_here=NFT_OUT + "nft add rule inet guard out udp dport 51820 reject"),
    Case("only the other end has a preshared key", "answer-refused",
         after_there="echo @psk@ >/run/psk; wg set wg0 peer @here@ preshared-key /run/psk"),
    Case("the other end is under load", "peer-busy", wants="", is_busy=True, after_there="ip link delete wg0"),
    Case("the ends have different preshared keys", "answer-refused", wants="",
         here=CLIENT + "PresharedKey = @psk@\n", there=SERVER + "PresharedKey = @psk2@\n"),
    Case("nftables drops the endpoint's answers", "input-blocked",
         after_here=NFT_IN + "nft add rule inet guard in udp sport 51820 drop"),
    Case("iptables drops the endpoint's answers", "input-blocked",
         after_here="iptables -P INPUT DROP; iptables -A INPUT -i wg0 -j ACCEPT"),
    Case("legacy iptables drops the endpoint's answers in its raw table", "input-blocked",
         says="in chain PREROUTING of table raw (iptables-legacy)",
         after_here="iptables-legacy -t raw -A PREROUTING -p udp --sport 51820 -j DROP"),
    Case("nftables drops the endpoint's answers before connection tracking", "input-blocked",
         says="by `udp sport 51820 drop' in chain raw of table inet guard",
         after_here=NFT_RAW + "nft add rule inet guard raw udp sport 51820 drop"),
    Case("an ingress chain drops the endpoint's answers", "input-blocked",
         says="by `udp sport 51820 drop' in chain link of table netdev guard",
         after_here=NFT_LINK + "nft add rule netdev guard link udp sport 51820 drop"),
    Case("rp_filter drops the endpoint's answers, which arrive on another link", "rp-filter",
         after_here="sysctl -q net.ipv4.conf.all.rp_filter=1; "
         "ip route replace default via 203.0.113.1 src 192.0.2.2"),
)  # fmt: skip

INSIDE = (
    Case("the other end's AllowedIPs lack this address", "no-data-back",
         after_there="wg set wg0 peer @here@ allowed-ips 10.66.0.77/32"),
    Case("the other end's AllowedIPs never had this address", "no-data-back", wants="",
         there=edited(SERVER, ("10.66.0.2/32", "10.66.0.3/32"))),
    Case("the other end's firewall drops packets from the tunnel", "no-data-back",
         after_there=NFT_IN + "nft add rule inet guard in iifname wg0 drop"),
    Case("the other end's address was removed", "no-data-back", after_there="ip addr flush dev wg0"),
    Case("nftables drops packets from the tunnel", "input-blocked",
         after_here=NFT_IN + "nft add rule inet guard in iifname wg0 drop"),
    Case("legacy iptables drops packets from the tunnel", "input-blocked",
         says="the rule `-A INPUT -i wg0 -j DROP' in chain INPUT of table mangle (iptables-legacy)",
         after_here="iptables-legacy -t mangle -A INPUT -i wg0 -j DROP"),
    Case("legacy iptables drops packets into the tunnel", "output-blocked",
         says="the rule `-A OUTPUT -o wg0 -j DROP' in chain OUTPUT of table filter (iptables-legacy)",
         after_here="iptables-legacy -A OUTPUT -o wg0 -j DROP"),
    Case("ip6tables drops packets from the tunnel", "input-blocked", here=FULL, there=FULL_SERVER,
         says="in chain INPUT of table ip6 filter", after_here="ip6tables -A INPUT -i wg0 -j DROP"),
    Case("nftables drops packets into the tunnel", "output-blocked",
         after_here=NFT_OUT + "nft add rule inet guard out oifname wg0 drop"),
    Case("rp_filter drops packets from the tunnel", "rp-filter", wants="",
         here=interface(edited(CLIENT, ("10.66.0.2/24", "10.66.0.2/32")), "Table = off"),
         after_here="sysctl -q net.ipv4.conf.all.rp_filter=1"),
    Case("the other end's file has no Address", "no-data-back", wants="",
         there=edited(SERVER, ("Address = 10.66.0.1/24\n", ""))),
    Case("the Address is in another network than AllowedIPs", "tunnel-net-unclaimed", wants="",
         here=edited(CLIENT, ("10.66.0.2/24", "10.67.0.2/24"))),
    Case("the route into the tunnel has another link's source address", "no-data-back", says="no address of wg0",
         after_here="ip route replace 10.66.0.0/24 dev wg0 src 203.0.113.2"),
    Case("a firewall rule marks packets for the tunnel, and the mark diverts them", "route-shadowed",
         says="a rule or a mark diverts them",
         after_here="nft add table inet guard; "
         "nft add chain inet guard out '{ type route hook output priority -150; }'; "
         "nft add rule inet guard out ip daddr 10.66.0.0/24 meta mark set 0x77; "
         "ip rule add pref 90 fwmark 0x77 lookup 77; ip route add default via 192.0.2.1 table 77"),
    Case("an egress chain drops packets into the tunnel", "output-blocked", says="by `drop' in chain way",
         after_here="nft add table netdev guard; "
         "nft add chain netdev guard way '{ type filter hook egress device wg0 priority 0; }'; "
         "nft add rule netdev guard way drop"),
    Case("the path's MTU is 576", "mtu-too-large", says="set MTU = 512", after_between="ip link set r1 mtu 576"),
    Case("the other end's firewall rejects packets from the tunnel", "no-data-back", severity="info",
         says="rejects echo requests", after_there=NFT_IN + "nft add rule inet guard in iifname wg0 reject"),
    Case("no host has the address in AllowedIPs", "no-data-back", wants="", says="or no host there has 10.66.0.7",
         here=routing("10.66.0.7/32")),
    Case("the path's MTU is 1280, and packet-too-big errors are dropped", "mtu-too-large", here=SIX,
         says="MTU = 1200",
         after_between="ip link set r1 mtu 1280; nft add table inet guard; "
         "nft add chain inet guard out '{ type filter hook output priority 0; }'; "
         "nft add rule inet guard out icmpv6 type packet-too-big drop"),
    Case("this host has the other end's address too", "address-shared", says="also this host's own",
         after_here="ip addr add 10.66.0.1/32 dev lo"),
    Case("the other end of a full tunnel does not forward", "not-forwarded", here=FULL, there=FULL_SERVER,
         pings="9.9.9.9", says="this host sends to 9.9.9.9"),
    Case("the other end of a full tunnel does not masquerade", "not-forwarded", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", says="the other end forwards", after_there=FORWARDS,
         after_here="(ping -i0.2 198.18.0.78 >/dev/null 2>&1 &)"),
    Case("large packets are lost on the way", "mtu-too-large",
         after_between=NFT_FORWARD + "nft add rule inet guard way meta length gt 1300 drop"),
    Case("the MTU is above the path's, and fragments are lost", "mtu-too-large",
         here=interface(CLIENT, "MTU = 1500"),
         there=interface(SERVER, "MTU = 1500"), after_between=NFT_FORWARD +
         "nft add rule inet guard way ip frag-off '&' 0x3fff != 0 drop"),
)  # fmt: skip

SERVERS = (
    Case("nftables drops packets to the server's port", "input-blocked", at="there", wants="", pings="10.66.0.1",
         before_there=NFT_IN + "nft add rule inet guard in udp dport 51820 drop"),
    Case("an nftables policy drops packets to the server's port", "input-blocked", at="there",
         after_there=NFT_IN + "nft add rule inet guard in iif lo accept; "
         "nft chain inet guard in '{ policy drop; }'"),
    Case("legacy iptables drops packets to the server's port", "input-blocked", at="there",
         says="the policy of chain INPUT of table filter (iptables-legacy)",
         after_there="iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i lo -j ACCEPT"),
    Case("firewalld does not open the server's port", "input-blocked", at="there", wants="", pings="10.66.0.1",
         says="`reject' in chain input", before_there=FIREWALLD),
    Case("nftables sets and maps do not open the server's port", "input-blocked", at="there", wants="",
         pings="10.66.0.1", says="the policy of chain input of table inet guard", before_there=SETS),
    Case("iptables redirects the server's port", "input-blocked", at="there", wants="", pings="10.66.0.1",
         before_there="iptables -t nat -A PREROUTING -p udp --dport 51820 -j REDIRECT --to-ports 53"),
    Case("nftables rejects the client's address, which is in a set", "input-blocked", at="there",
         pings="10.66.0.1",
         says="`ip saddr @bad reject' in chain in of table inet guard", after_there=NFT_IN +
         "nft add set inet guard bad '{ type ipv4_addr; elements = { 192.0.2.2 }; }'; "
         "nft add rule inet guard in ip saddr @bad reject"),
    Case("connlimit drops the client's packets", "input-blocked", at="there", pings="10.66.0.1",
         says="connlimit", after_there="iptables -A INPUT -p udp -m conntrack --ctstate ESTABLISHED "
         "-m connlimit --connlimit-above 0 -j DROP"),
    Case("the NAT mapping of a client has expired", "no-answer", severity="warning", at="there",
         says="its NAT mapping has expired", pings_from="there", pings="10.66.0.2",
         after_between=NFT_FORWARD + "nft add rule inet guard way iifname r1 drop"),
    Case("the server has no ListenPort", "nobody-connects", at="there", wants="",
         there=edited(SERVER, ("ListenPort = 51820\n", ""))),
    Case("a client has a key that no peer of the server has", "knock-unknown-key", at="there", wants="",
         pings="10.66.0.1",
         there=edited(SERVER, ("@here@", "@other@"))),
    Case("a client has an old public key of the server", "knock-wrong-key", at="there", wants="", pings="10.66.0.1",
         here=edited(CLIENT, ("@there@", "@third@"))),
    Case("the server's AllowedIPs lack the client's address", "source-not-allowed", at="there", wants="",
         absent={GO: NO_COUNTERS},
         pings="10.66.0.1", there=edited(SERVER, ("10.66.0.2/32", "10.66.0.3/32"))),
    Case("the server's answers leave through another link", "route-shadowed", at="there", wants="",
         pings="10.66.0.1", says="arrive on eth0, and the answers leave through x0",
         before_there="ip link add x0 type veth peer name x1; ip addr add 203.0.113.5/24 dev x0; "
         "ip link set x0 up; ip link set x1 up; ip route replace default via 203.0.113.1 dev x0"),
    Case("only the server has a preshared key", "answer-refused", at="there", wants="", pings="10.66.0.1",
         there=SERVER + "PresharedKey = @psk2@\n"),
    Case("a client's clock was set back an hour", "knock-stale-clock", at="there", late=3600.0,
         after_here="ip link set wg0 down"),
    Case("the link is down, and a client sends handshakes", "not-up", at="there", wants="", pings="10.66.0.1",
         listen=7.0,
         says="[knock-known]", after_there="ip link set wg0 down"),
    Case("only the file is left, and a client sends handshakes", "not-up", at="there", wants="", pings="10.66.0.1",
         listen=7.0,
         says="[knock-known]",
         after_there="ip link delete wg0; rm -r /run/wgq/*"),
    Case("two clients have the same private key", "one-key-two-places", at="there", pings="10.66.0.1", twin=True),
    Case("the server does not forward IPv4", "forwarding-off", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77"),
    Case("the server does not forward IPv6", "forwarding-off", at="there", here=FULL, there=FULL_SERVER,
         pings="-6 2001:db8:3::77", after_there=FORWARDS + MASQUERADE),
    Case("the server's uplink does not forward", "forwarding-off", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", says="net.ipv4.conf.eth0.forwarding=1",
         after_there=FORWARDS + MASQUERADE + "; sysctl -q net.ipv4.conf.eth0.forwarding=0"),
    Case("the server has no default route", "route-missing", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", says="no route to 198.18.0.77", after_there=FORWARDS + MASQUERADE +
         "; ip route replace 192.0.2.0/24 via 198.51.100.1; ip route del default"),
    Case("a PostUp masquerades, but forwarding is off", "forwarding-off", at="there",
         there=interface(SERVER, "PostUp = iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE")),
    Case("nftables drops forwarded packets", "forward-blocked", at="there", here=FULL,
         there=FULL_SERVER, pings="198.18.0.77", after_there=NFT_FORWARD +
         FORWARDS + "nft chain inet guard way '{ policy drop; }'"),
    Case("iptables drops forwarded answers", "forward-blocked", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", says="forwarded packets to wg0", after_there=FORWARDS + "iptables -P FORWARD DROP; "
         "iptables -A FORWARD -i wg0 -j ACCEPT; " + MASQUERADE),
    Case("the server does not masquerade", "not-masqueraded", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", after_there=FORWARDS),
    Case("a host in the server's network has no route to the client", "not-masqueraded", at="there",
         here=routing("10.66.0.0/24, 10.9.0.0/24"), pings="10.9.0.2",
         before_between="ip addr add 10.9.0.2/24 dev r1",
         before_there=FORWARDS + "ip addr add 10.9.0.1/24 dev eth0"),
    Case("the server masquerades on the wrong link", "not-masqueraded", at="there", here=FULL,
         pings="198.18.0.77", says="-o ens3 -j MASQUERADE", there=interface(
             FULL_SERVER, "PostUp = sysctl -q net.ipv4.ip_forward=1; iptables -A FORWARD -i %i -j ACCEPT; "
             "iptables -t nat -A POSTROUTING -o ens3 -j MASQUERADE")),
    Case("the server has no route to the client", "route-missing", at="there", wants="", pings="10.66.0.1",
         there=interface(edited(SERVER, ("10.66.0.1/24", "10.66.0.1/32")), "Table = off")),
    Case("the server has no route to the network behind a client", "route-missing", at="there",
         pings="-I 10.20.0.1 10.66.0.1",
         there=interface(edited(SERVER, ("2/32", "2/32, 10.20.0.0/16")), "Table = off"),
         before_here="ip addr add 10.20.0.1/16 dev lo"),
    Case("iptables rejects forwarded packets", "forward-blocked", at="there", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", says="in chain GUARD of table filter (iptables)",
         after_there=FORWARDS + "iptables -N GUARD; iptables -A FORWARD -j GUARD; "
         "iptables -A GUARD -i wg0 -m comment --comment 'no guests' -j REJECT"),
    Case("legacy iptables drops forwarded packets by its policy", "forward-blocked", at="there", here=FULL,
         there=FULL_SERVER, pings="198.18.0.77", says="the policy of chain FORWARD of table filter "
         "(iptables-legacy)", after_there=FORWARDS + "iptables-legacy -P FORWARD DROP"),
    Case("a chain of legacy iptables rejects forwarded packets", "forward-blocked", at="there", here=FULL,
         there=FULL_SERVER, pings="198.18.0.77", says="in chain GUARD of table filter (iptables-legacy)",
         after_there=FORWARDS + "iptables-legacy -N GUARD; iptables-legacy -A FORWARD -j GUARD; "
         "iptables-legacy -A GUARD -i wg0 -j REJECT"),
)  # fmt: skip

OTHER_FILE = (
    Case("the PublicKey is not that of the other file", "peer-key-mismatch", other_file=True, wants="",
         here=edited(CLIENT, ("@there@", "@other@"), ("10.66.0.0/24", "10.66.0.1/32"))),
    Case("the other file has no peer with this public key", "peer-one-sided", other_file=True, wants="",
         there=edited(SERVER, ("@here@", "@other@"), ("10.66.0.2/32", "10.66.0.9/32"))),
    Case("only the other file has a preshared key", "psk-differs", other_file=True, wants="",
         there=SERVER + "PresharedKey = @psk@\n"),
    Case("the other file has another preshared key", "psk-differs", other_file=True, wants="",
         here=CLIENT + "PresharedKey = @psk@\n", there=SERVER + "PresharedKey = @psk2@\n"),
    Case("the other file has another ListenPort", "endpoint-port-differs", other_file=True, wants="",
         there=edited(SERVER, ("51820", "51999"))),
    Case("the other file has no ListenPort", "endpoint-port-differs", other_file=True, wants="",
         there=edited(SERVER, ("ListenPort = 51820\n", ""))),
    Case("both files have the same Address", "address-shared", other_file=True, wants="",
         there=edited(SERVER, ("10.66.0.1/24", "10.66.0.2/24"))),
    Case("the other file's AllowedIPs lack this Address", "source-not-allowed", other_file=True, wants="",
         there=edited(SERVER, ("10.66.0.2/32", "10.66.0.3/32"))),
    Case("both files have the same private key", "one-key-two-places", other_file=True, wants="",
         there=edited(SERVER, ("@there_secret@", "@here_secret@"), ("@here@", "@there@"))),
    Case("the PublicKey is the other file's private key", "public-key-is-private", other_file=True,
         wants="", here=edited(CLIENT, ("@there@", "@there_secret@"))),
)  # fmt: skip

FAULTS = (*HERE, *OUTSIDE, *ANSWERS, *INSIDE, *SERVERS, *OTHER_FILE)

HEALTHY = (
    Case("a client and a server"),
    Case("doctor runs on the server", at="there"),
    Case("a full tunnel of IPv4 and IPv6", here=FULL, there=FULL_SERVER),
    Case("a full tunnel with iptables", here=FULL, there=FULL_SERVER,
         options=Options(backend="userspace", firewall="iptables")),
    Case("a full tunnel of IPv4 only", here=routing("0.0.0.0/0")),
    Case("an IPv6 endpoint", here=SIX),
    Case("an endpoint with a host name", here=NAMED, before_here=HOSTS),
    Case("Table = off, and a hook adds a route",
         here=interface(CLIENT, "Table = off", "PostUp = ip route add 10.77.0.0/24 dev %i")),
    Case("Table = off", here=interface(CLIENT, "Table = off")),
    Case("a numbered table, and a hook adds a rule",
         here=interface(CLIENT, "Table = 77", "PostUp = ip rule add to 10.66.0.0/24 table 77")),
    Case("FwMark in the file", here=MARKED),
    Case("a full tunnel with FwMark in the file", here=interface(FULL, "FwMark = 0x77"), there=FULL_SERVER),
    Case("SaveConfig, and a change by hand since", here=interface(CLIENT, "SaveConfig = true"),
         after_here="wg set wg0 peer @other@ allowed-ips 10.66.0.77/32"),
    Case("DNS through resolv.conf", here=DNS, before_there=RESOLVER,
         options=Options(backend="userspace", dns="file")),
    Case("a server with a client that is off", there=SERVER + EXTRA, at="there"),
    Case("preshared keys", here=CLIENT + "PresharedKey = @psk@\n", there=SERVER + "PresharedKey = @psk@\n"),
    Case("the server pings a client that is off", there=SERVER + EXTRA, at="there", pings_from="there",
         pings="10.66.0.9"),
    Case("a router beyond the other end reports an unreachable host", here=routing("10.66.0.0/24, 10.9.0.0/24"),
         before_there=FORWARDS + MASQUERADE),
    Case("a tunnel through a bridge", after_here=BRIDGED),
    Case("MTU in the file", here=interface(CLIENT, "MTU = 1280")),
    Case("a hook sets the private key",
         here=edited(CLIENT, ("PrivateKey = @here_secret@", "PostUp = wg set %i private-key /run/key")),
         before_here="echo @here_secret@ >/run/key"),
    Case("the other end drops echo requests",
         after_there=NFT_IN + "nft add rule inet guard in icmp type echo-request drop"),
    Case("rp_filter is strict", here=FULL, there=FULL_SERVER, after_here="sysctl -q net.ipv4.conf.all.rp_filter=1"),
    Case("AllowedIPs include a local network", here=routing("10.66.0.1/32, 10.0.0.0/8"),
         before_here=LAN),
    Case("the server's nftables opens its port", at="there", before_there=NFT_IN +
         "nft add rule inet guard in udp dport 51820 accept; nft add rule inet guard in iifname wg0 accept; "
         "nft chain inet guard in '{ policy drop; }'"),
    Case("a client with nftables", after_here=NFT_IN +
         "nft add rule inet guard in ct state established accept; nft chain inet guard in '{ policy drop; }'"),
    Case("a client with iptables", after_here="iptables -P INPUT DROP; "
         "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    Case("the server's legacy iptables opens its port", at="there", here=FULL, pings="198.18.0.77",
         there=interface(FULL_SERVER, "PostUp = sysctl -q net.ipv4.ip_forward=1"), before_there=
         "iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -p udp -m multiport --dports 5,51820 -j ACCEPT; "
         "iptables-legacy -A INPUT -i wg+ -j ACCEPT; iptables-legacy -P FORWARD DROP; "
         "iptables-legacy -A FORWARD ! -i eth0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT; "
         "iptables-legacy -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT; "
         "iptables-legacy -t nat -A POSTROUTING ! -o wg+ -j MASQUERADE"),
    Case("nftables sets and maps open the server's port", at="there", before_there=edited(
        SETS, ("53", "51820"), ("iif lo accept", "iif lo accept; icmp type echo-request accept"))),
    Case("the server's router has a route to the tunnel's network", at="there", here=FULL, there=FULL_SERVER,
         pings="203.0.113.1", before_between="ip route add 10.66.0.0/24 via 198.51.100.2", after_there=FORWARDS),
    Case("a server that forwards", at="there", here=FULL, pings="198.18.0.77",
         there=interface(FULL_SERVER, "PostUp = sysctl -q net.ipv4.ip_forward=1",
                         "PostUp = iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
                         "PostUp = iptables -P FORWARD DROP; iptables -A FORWARD -i %i -j ACCEPT; "
                         "iptables -A FORWARD -o %i -j ACCEPT")),
    Case("the other end of a full tunnel forwards", here=FULL, there=FULL_SERVER, pings="198.18.0.77",
         before_between="ip addr add 198.18.0.77/32 dev lo", before_there=FORWARDS + MASQUERADE +
         "; sysctl -q net.ipv6.conf.all.forwarding=1; ip6tables -t nat -A POSTROUTING -o eth0 -j MASQUERADE"),
    Case("a ping through a full tunnel to an address that no host has", here=FULL, there=FULL_SERVER,
         pings="198.18.0.77", after_there=FORWARDS + MASQUERADE,
         after_between="ip route add blackhole 198.18.0.77; "
         "iptables -A OUTPUT -p icmp -j DROP; ip6tables -A OUTPUT -p icmpv6 --icmpv6-type 1 -j DROP; "
         "ip6tables -A OUTPUT -p icmpv6 --icmpv6-type 3 -j DROP"),
    Case("a router's NAT changes the source port", after_between="nft add table ip nat; "
         "nft add chain ip nat post '{ type nat hook postrouting priority 100; }'; "
         "nft add rule ip nat post oifname r1 udp dport 51820 masquerade to :5000-5010"),
    Case("the uplink's address has changed", after_here="ip addr del 192.0.2.2/24 dev eth0; "
         "ip addr add 192.0.2.3/24 dev eth0; ip route replace default via 192.0.2.1"),
    Case("an MTU of 1500 with fragmentation", here=interface(CLIENT, "MTU = 1500"),
         there=interface(SERVER, "MTU = 1500")),
    Case("the client runs wgq-userspace", at="there", here=FULL, there=FULL_SERVER, client=OURS),
    Case("the client runs wgq-userspace and sends multicast", at="there", here=FULL, there=FULL_SERVER, client=OURS,
         pings="-6 -I wg0 ff02::fb"),
    Case("the other end's file is given", other_file=True),
    Case("PersistentKeepalive in the file", here=CLIENT + "PersistentKeepalive = 25\n"),
    Case("wg-quick brought the tunnel up", here=FULL, there=FULL_SERVER, doctor=(("quick", "1"),)),
)  # fmt: skip

ON_BOTH = (
    "only the other end has a preshared key",
    "nftables drops the endpoint's answers",
    "the other end's AllowedIPs lack this address",
    "a client has a key that no peer of the server has",
    "a full tunnel of IPv4 and IPv6",
)
CASES = [
    (case, backend)
    for case in (*FAULTS, *HEALTHY)
    for backend in BACKENDS
    if backend == OURS or case.name in ON_BOTH or backend in case.absent
]
"""The cases of each run, with the backend at both ends; `python -m tests.faults.page` tries all."""
