//! Tests two devices in one process, connected over loopback. A pair of sockets stands in for each TUN device, so that no
//! privilege is needed.

use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::checksum;
use crate::device::Device;
use crate::exchange;
use crate::headers::{Header, Ipv4, UDP, Udp};
use crate::inbound::Inbound;
use crate::interruption::Interruption;
use crate::keys::{PrivateKey, push_hex};
use crate::lifecycle;
use crate::locks::read;
use crate::noise::limits::{INITIATION_INTERVAL_MS, REJECT_AFTER_TIME_MS};
use crate::outbound::Outbound;
use crate::peer::Peer;
use crate::sys::{self, poll, pollfd};
use crate::tun::split::Splitter;
use crate::tun::{Link, MAX_PACKET, Offloads, Tun, VNET_LEN, VnetHeader};
use crate::uapi::counters;
use crate::uapi::server::answer;
use crate::udp::binder::Binder;
use crate::work::Work;

/// The longest wait for an event before the test fails.
const TIMEOUT: Duration = Duration::from_secs(60);
const NO_OFFLOADS: Offloads = Offloads { tcp: false, udp: false };

/// A device with its threads, and the host's end of its TUN device.
struct End {
    device: Arc<Device>,
    /// Never closed, as the threads run until the process ends.
    host: ManuallyDrop<UnixDatagram>,
    key: PrivateKey,
    address: Ipv4Addr,
}

impl End {
    /// An end with an address in 10.0.0.0/24 that no peer is configured for.
    fn new(number: u8, offloads: Offloads) -> Self {
        let (ours, hosts) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        hosts.set_read_timeout(Some(TIMEOUT)).unwrap();
        let tun = Tun::new(ours.into(), offloads);
        let binder = Binder::start(256 << 10).unwrap();
        let device = Device::new(format!("test{number}"), tun, Link::new("lo").unwrap(), binder).unwrap();
        let device = Arc::new(device);
        let (outbound, inbound) = (Outbound::new(device.clone()), Inbound::new(device.clone()));
        thread::spawn(|| outbound.run());
        thread::spawn(|| inbound.run());
        spawn_control(device.clone());
        let end = Self {
            device,
            host: ManuallyDrop::new(hosts),
            key: PrivateKey::new([number; 32]),
            address: Ipv4Addr::new(10, 0, 0, number),
        };
        end.set(&format!("private_key={}\nlisten_port=0", hex(end.key.bytes())));
        end
    }

    /// Applies the lines of a configuration request.
    fn set(&self, lines: &str) {
        let answered = answer(&self.device, format!("set=1\n{lines}\n\n").as_bytes());
        assert_eq!(answered, b"errno=0\n\n", "{lines}");
    }

    /// Makes another end a peer, with an endpoint on loopback if its port is known.
    fn add(&self, other: &Self, port: Option<u16>) {
        let endpoint = port.map(|port| format!("\nendpoint=127.0.0.1:{port}")).unwrap_or_default();
        self.set(&format!(
            "public_key={}\nallowed_ip={}/32{endpoint}",
            hex(&other.key.public().0),
            other.address
        ));
    }

    fn peer(&self) -> Arc<Peer> {
        self.device.state().peers().next().expect("a peer is configured").clone()
    }

    fn port(&self) -> u16 {
        self.device.sockets().expect("loopback is up").port
    }

    /// The index of the session that this end sends with.
    fn session(&self) -> Option<u32> {
        read(&self.peer().keypairs).current.as_ref().map(|session| session.indexes.local)
    }

    /// Makes the host send a packet into the tunnel.
    fn send(&self, packet: &[u8]) {
        self.send_large(&VnetHeader::default(), packet);
    }

    fn send_large(&self, header: &VnetHeader, packet: &[u8]) {
        self.host.send(&[&header.bytes(), packet].concat()).unwrap();
    }

    /// The next packet that the host receives from the tunnel.
    fn receive_large(&self) -> (VnetHeader, Vec<u8>) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let len = self.host.recv(&mut buffer).expect("a packet arrives");
            // A device checks its link by an empty write, which this socket delivers as an empty message.
            if let Some((header, packet)) = buffer[..len].split_first_chunk::<VNET_LEN>() {
                return (VnetHeader::parse(header), packet.to_vec());
            }
        }
    }

    fn receive(&self) -> Vec<u8> {
        let (header, packet) = self.receive_large();
        assert_eq!(header, VnetHeader::default());
        packet
    }

    fn packet(&self, to: &Self, text: &str) -> Vec<u8> {
        datagram(self.address, to.address, text.as_bytes())
    }

    /// Sends a packet to another end and waits for it there.
    fn deliver(&self, to: &Self, text: &str) {
        let packet = self.packet(to, text);
        self.send(&packet);
        assert_eq!(to.receive(), packet, "{text}");
    }
}

/// Does the control thread's work for a device without a control socket.
fn spawn_control(device: Arc<Device>) {
    let mut work = Work::new(device.clone());
    thread::spawn(move || {
        while work.turn() {
            let _ = device.inbox.sleep(sys::now_ms(), None, |waker, timeout| {
                poll(&mut [pollfd(waker, libc::POLLIN)], timeout)
            });
        }
    });
}

fn hex(key: &[u8; 32]) -> String {
    let mut text = Vec::new();
    push_hex(&mut text, key);
    String::from_utf8(text).unwrap()
}

/// An IPv4 packet with a UDP datagram.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; Ipv4::LEN + Udp::LEN];
    packet.extend(payload);
    let total = packet.len();
    let ip = Ipv4::at_mut(&mut packet, 0);
    (ip.version_and_length, ip.ttl, ip.protocol) = (0x45, 64, UDP);
    ip.total_length.set(total as u16);
    ip.addresses = [from.octets(), to.octets()].concat().try_into().unwrap();
    Udp::at_mut(&mut packet, Ipv4::LEN).length.set((total - Ipv4::LEN) as u16);
    let sum = checksum::finish(checksum::add(0, &packet[..Ipv4::LEN]));
    Ipv4::at_mut(&mut packet, 0).checksum = sum;
    let pseudo = checksum::pseudo(&packet[12..20], UDP, total - Ipv4::LEN);
    let sum = checksum::finish(checksum::add(pseudo, &packet[Ipv4::LEN..]));
    Udp::at_mut(&mut packet, Ipv4::LEN).checksum = sum;
    packet
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "{what} does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the time in which a receiver rejects a second initiation.
fn let_initiation_interval_pass() {
    thread::sleep(Duration::from_millis(2 * INITIATION_INTERVAL_MS));
}

/// Two ends, of which only the first knows the endpoint of the other.
fn pair_with(offloads: Offloads) -> (End, End) {
    let (a, b) = (End::new(1, offloads), End::new(2, offloads));
    b.add(&a, None);
    a.add(&b, Some(b.port()));
    (a, b)
}

fn pair() -> (End, End) {
    pair_with(NO_OFFLOADS)
}

#[test]
fn the_first_packet_starts_a_handshake_and_both_ends_send() {
    let (a, b) = pair();
    a.deliver(&b, "there");
    b.deliver(&a, "and back");
    assert!(a.session().is_some() && b.session().is_some());
    for end in [&a, &b] {
        let got = String::from_utf8(answer(&end.device, b"get=1\n\n")).unwrap();
        assert!(!got.contains("last_handshake_time_sec=0\n") && !got.contains("rx_bytes=0\n"), "{got}");
    }
}

#[test]
fn packets_sent_before_the_handshake_arrive_in_order() {
    let (a, b) = pair();
    let packets: Vec<_> = (0..5).map(|n| a.packet(&b, &format!("packet {n}"))).collect();
    packets.iter().for_each(|packet| a.send(packet));
    for packet in packets {
        assert_eq!(b.receive(), packet);
    }
}

#[test]
fn a_packet_with_another_source_address_is_dropped() {
    let (a, b) = pair();
    a.deliver(&b, "the first");
    a.send(&datagram(Ipv4Addr::new(10, 0, 0, 99), b.address, b"forged"));
    a.deliver(&b, "the next");
}

#[test]
fn a_packet_without_a_peer_gets_host_unreachable() {
    let (a, b) = pair();
    let lost = datagram(a.address, Ipv4Addr::new(10, 9, 9, 9), b"lost");
    a.send(&lost);
    let answer = a.receive();
    assert_eq!((answer[9], &answer[20..22], &answer[28..]), (1, &[3, 1][..], &lost[..]));
    a.deliver(&b, "not lost");
}

#[test]
fn a_peer_may_roam_to_another_port() {
    let (a, b) = pair();
    a.deliver(&b, "from the first port");
    let old = a.port();
    a.set("listen_port=0");
    assert_ne!(a.port(), old);
    a.deliver(&b, "from the second port");
    assert_eq!(b.peer().endpoint().map(|endpoint| endpoint.address.port()), Some(a.port()));
    b.deliver(&a, "to the second port");
}

#[test]
fn an_expired_session_is_replaced() {
    let (a, b) = pair();
    a.deliver(&b, "by the first session");
    b.deliver(&a, "by the first session");
    let (old_a, old_b) = (a.session(), b.session());
    let_initiation_interval_pass();
    lifecycle::end_sessions(&a.device, Interruption::Restored);
    a.deliver(&b, "by the second session");
    wait_until("a second session", || a.session() != old_a && b.session() != old_b);
    b.deliver(&a, "by the second session");
}

#[test]
fn a_session_without_counters_is_replaced() {
    let (a, b) = pair();
    a.deliver(&b, "by the first session");
    let old = a.session();
    let_initiation_interval_pass();
    a.peer().last_sent.store(0, Relaxed);
    read(&a.peer().keypairs).current.as_ref().expect("there is a session").exhaust();
    a.deliver(&b, "by the second session");
    assert_ne!(a.session(), old);
}

#[test]
fn keys_are_wiped_after_three_session_lifetimes() {
    let (a, b) = pair();
    a.deliver(&b, "by the first session");
    b.deliver(&a, "by the first session");
    exchange::run_timers(&a.device, &a.peer(), sys::now_ms() + 3 * REJECT_AFTER_TIME_MS);
    assert_eq!(a.session(), None);
    let_initiation_interval_pass();
    lifecycle::end_sessions(&a.device, Interruption::Slept);
    a.deliver(&b, "by the second session");
    b.deliver(&a, "by the second session");
}

#[test]
fn a_responder_without_sessions_starts_a_handshake() {
    let (a, b) = pair();
    a.deliver(&b, "by the first session");
    let old = a.session();
    lifecycle::end_sessions(&b.device, Interruption::Slept);
    b.deliver(&a, "by the second session");
    assert_ne!(a.session(), old);
    a.deliver(&b, "by the second session");
}

#[test]
fn a_removed_peer_gets_nothing_until_it_is_added_again() {
    let (a, b) = pair();
    a.deliver(&b, "before");
    b.set(&format!("public_key={}\nremove=true", hex(&a.key.public().0)));
    assert_eq!(b.device.state().peers().count(), 0);
    a.send(&a.packet(&b, "meanwhile"));
    wait_until("the packet is dropped", || {
        let answered = answer(&b.device, format!("{}\n\n", counters::REQUEST).as_bytes());
        String::from_utf8_lossy(&answered).contains("event=unknown_index\n")
    });
    b.add(&a, Some(a.port()));
    b.deliver(&a, "afterwards");
    a.deliver(&b, "afterwards");
}

/// A relay between two ends. It delivers each datagram twice, after a copy with a changed last byte.
fn noisy_wire(to: u16) -> u16 {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    far.connect(("127.0.0.1", to)).unwrap();
    let port = near.local_addr().unwrap().port();
    let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel::<SocketAddr>();
    let noisily = |bytes: &mut [u8], send: &dyn Fn(&[u8])| {
        *bytes.last_mut().unwrap() ^= 1;
        send(bytes);
        *bytes.last_mut().unwrap() ^= 1;
        send(bytes);
        send(bytes);
    };
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PACKET];
        while let Ok((len, from)) = near.recv_from(&mut buffer) {
            let _ = sender.send(from);
            noisily(&mut buffer[..len], &|bytes| drop(far.send(bytes)));
        }
    });
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PACKET];
        let back = receiver.recv().unwrap();
        while let Ok(len) = far_back.recv(&mut buffer) {
            noisily(&mut buffer[..len], &|bytes| drop(near_back.send_to(bytes, back)));
        }
    });
    port
}

#[test]
fn replayed_and_forged_packets_are_dropped() {
    let (a, b) = (End::new(1, NO_OFFLOADS), End::new(2, NO_OFFLOADS));
    b.add(&a, None);
    a.add(&b, Some(noisy_wire(b.port())));
    for n in 0..50 {
        a.deliver(&b, &format!("there {n}"));
        b.deliver(&a, &format!("back {n}"));
    }
}

#[test]
fn a_large_packet_is_split_and_arrives_whole() {
    let (a, b) = pair_with(Offloads { tcp: true, udp: true });
    a.deliver(&b, "first a handshake");
    let payload: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    let mut large = datagram(a.address, b.address, &payload);
    let pseudo = checksum::fold(checksum::pseudo(&large[12..20], UDP, large.len() - Ipv4::LEN));
    Udp::at_mut(&mut large, Ipv4::LEN).checksum = pseudo.to_ne_bytes();
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_UDP_L4,
        header_len: (Ipv4::LEN + Udp::LEN) as u16,
        gso_size: 1000,
        csum_start: Ipv4::LEN as u16,
        csum_offset: 6,
    };
    a.send_large(&header, &large);
    let mut arrived: Vec<u8> = Vec::new();
    while arrived.len() < payload.len() {
        let (header, packet) = b.receive_large();
        let mut splitter = Splitter::new(&header, &packet).expect("an IP packet");
        while let Some(len) = splitter.next_len() {
            let mut packet = vec![0; len];
            splitter.write(&mut packet);
            arrived.extend(&packet[Ipv4::LEN + Udp::LEN..]);
        }
    }
    assert_eq!(arrived, payload);
}

#[test]
fn a_new_fwmark_waits_while_another_thread_binds_sockets() {
    let end = End::new(1, NO_OFFLOADS);
    end.device.close_sockets();
    let link = end.device.link();
    thread::scope(|scope| {
        scope.spawn(|| end.set("fwmark=7"));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(end.device.fwmark.load(Relaxed), 0, "the thread that holds the link may have read this");
        drop(link);
    });
    assert_eq!(end.device.fwmark.load(Relaxed), 7);
}

#[test]
fn a_request_starts_a_handshake_despite_a_session() {
    let (a, b) = pair();
    let request =
        |key: &[u8; 32]| answer(&a.device, format!("handshake=1\npublic_key={}\n\n", hex(key)).as_bytes());
    a.deliver(&b, "there is a session");
    let first = a.session();
    let_initiation_interval_pass();
    a.peer().last_sent.store(0, Relaxed);
    assert_eq!(request(&b.key.public().0), b"errno=0\n\n");
    wait_until("another session", || a.session() != first);
    a.deliver(&b, "and it works");
    assert_eq!(request(&a.key.public().0), format!("errno={}\n\n", -libc::ENOENT).as_bytes(), "no such peer");
    assert_eq!(
        answer(&a.device, b"handshake=1\nremove=true\n\n"),
        format!("errno={}\n\n", -libc::EINVAL).as_bytes()
    );
}
