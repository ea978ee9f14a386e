//! Connections and names that were not granted.

use std::net::TcpListener;

use kvtier::{BackendConfig, EngineBuilder, NetGrant, NetHost, PortRange};

use super::{CLASSES, assert_denied, intruder, run};
use crate::support;

/// Returns a listener on this machine, and its address.
fn listener() -> (TcpListener, String, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address.to_string(), address.port())
}

fn tcp(host: NetHost, port: u16) -> NetGrant {
    NetGrant::Tcp { host, ports: PortRange { first: port, last: port } }
}

fn address(text: &str) -> NetHost {
    NetHost::Address(text.parse().unwrap())
}

fn assert_not_connected(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a connection arrived");
}

#[test]
fn a_backend_without_network_grants_gets_no_socket() {
    let (listener, there, _) = listener();
    for steps in [format!("connect {there}"), format!("std connect {there}"), "listen".into()] {
        for class in CLASSES.iter().take(if steps.starts_with("std") { 1 } else { 2 }) {
            let remedy = "add allow.net: [\"tcp://HOST:PORT\"]";
            assert_denied(intruder(class, &steps), "a TCP socket", remedy);
        }
    }
    assert_not_connected(&listener);
}

#[test]
fn a_granted_address_does_not_open_its_neighbour() {
    let (_granted, granted_address, port) = listener();
    let (other, other_address, _) = listener();
    for class in CLASSES {
        let backend = |steps: &str| {
            let mut backend = intruder(class, steps);
            backend.allow.net.push(tcp(address("127.0.0.1"), port));
            backend
        };
        let seen = run(backend(&format!("connect {granted_address}")));
        assert_eq!((seen.error, seen.health.denials), (None, 0));
        let what = format!("connecting to {other_address}");
        let remedy = format!("add allow.net: [\"tcp://{other_address}\"]");
        assert_denied(backend(&format!("connect {other_address}")), &what, &remedy);
        // The same port of another address.
        let elsewhere = format!("127.0.0.2:{port}");
        let what = format!("connecting to {elsewhere}");
        let remedy = format!("add allow.net: [\"tcp://{elsewhere}\"]");
        assert_denied(backend(&format!("connect {elsewhere}")), &what, &remedy);

        let nobody = "no grant allows a backend to be connected to";
        assert_denied(backend("listen"), "listening for connections", nobody);
        assert_denied(backend("bind 127.0.0.1:0"), "binding to 127.0.0.1:0", nobody);
        assert_denied(backend("bind 0.0.0.0:9"), "binding to 0.0.0.0:9", nobody);
        assert_denied(backend("udp"), "a UDP socket", "no grant allows UDP");
    }
    let mut backend = intruder(CLASSES[0], "std udp 127.0.0.1:0");
    backend.allow.net.push(tcp(address("127.0.0.1"), port));
    assert_denied(backend, "a UDP socket", "no grant allows UDP");
    assert_not_connected(&other);
}

/// Returns a backend that may reach `localhost` by name, and loopback by address.
fn local(class: &str, steps: &str, port: u16) -> BackendConfig {
    let mut backend = intruder(class, steps);
    backend.allow.net.extend([
        tcp(NetHost::Name("localhost".into()), port),
        tcp(address("127.0.0.1"), port),
        tcp(address("::1"), port),
    ]);
    backend
}

#[test]
fn a_granted_name_is_resolved_by_the_host_and_no_other_name_is() {
    let (_listener, _, port) = listener();
    for class in CLASSES {
        for name in ["localhost", "LocalHost", "localhost."] {
            let seen = run(local(class, &format!("resolve {name}"), port));
            assert_eq!((seen.error, seen.health.denials), (None, 0));
            assert!(seen.heard[0].contains("(127, 0, 0, 1)"), "{:?}", seen.heard);
        }
        for name in ["other.example", "localhost.example", "x.localhost", "metadata"] {
            let what = format!("resolving the name \"{name}\"");
            let remedy = format!("add allow.net: [\"tcp://{name}:PORT\"]");
            let steps = format!("resolve {name}");
            assert_denied(local(class, &steps, port), &what, &remedy);
            assert_denied(intruder(class, &steps), &what, &remedy);
        }
    }
    let seen = run(local(CLASSES[0], &format!("std connect localhost:{port}; std resolve localhost"), port));
    assert_eq!(seen.error, None);
    assert!(seen.heard[1].contains("127.0.0.1"), "{:?}", seen.heard);
    let what = "resolving the name \"other.example\"";
    let remedy = "add allow.net: [\"tcp://other.example:PORT\"]";
    assert_denied(intruder(CLASSES[0], "std resolve other.example"), what, remedy);
}

#[test]
fn a_name_that_leads_to_this_machine_needs_the_address_granted_too() {
    let refused = |net: Vec<NetGrant>| {
        let mut backend = intruder(CLASSES[0], "resolve localhost");
        backend.allow.net = net;
        let config = support::config(vec![backend]);
        EngineBuilder::new(config, support::metadata()).build_blocking().unwrap_err().to_string()
    };
    let name = || tcp(NetHost::Name("localhost".into()), 6379);
    let error = refused(vec![name()]);
    let expected = "allow.net: `tcp://localhost:6379`: the name resolves to 127.0.0.1, a loopback address; \
                    names may lead there only if the address is granted too: if that is meant, add \
                    \"tcp://127.0.0.1:6379\" or a network that has it";
    assert!(error.contains(expected), "{error}");
    // Its port has to be granted too.
    let error = refused(vec![name(), tcp(address("127.0.0.1"), 6380)]);
    assert!(error.contains(expected), "{error}");
}
