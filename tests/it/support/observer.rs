//! Sockets of this machine that see whether anyone connects, and the addresses that nobody may.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

/// Sees every connection that is made to this machine at its port: a handshake is complete before the caller knows.
pub(crate) struct Observer {
    pub(crate) sockets: [TcpListener; 2],
    pub(crate) port: u16,
}

impl Observer {
    /// On every IPv4 address of this machine, and on `::1`.
    pub(crate) fn new() -> Self {
        for _ in 0..100 {
            let v4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let port = v4.local_addr().unwrap().port();
            if let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
                let sockets = [v4, v6];
                for socket in &sockets {
                    socket.set_nonblocking(true).unwrap();
                }
                return Self { sockets, port };
            }
        }
        panic!("no port is free in both families");
    }

    /// Whether anyone has connected since it was last asked.
    pub(crate) fn saw(&self) -> bool {
        let mut any = false;
        for socket in &self.sockets {
            loop {
                match socket.accept() {
                    Ok(_) => any = true,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        any
    }
}

/// Addresses of this machine, in every notation that an HTTP client may understand; PORT stands for the observer's.
pub(crate) const THIS_MACHINE: [&str; 28] = [
    "http://127.0.0.1:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://127.255.255.254:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0x7F.1:PORT/",
    "http://017700000001:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://0177.0x0.0.01:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://127%2e0%2e0%2e1:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://127。0。0。1:PORT/",
    "http://0.0.0.0:PORT/",
    "http://0:PORT/",
    "http:127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT\\",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::0.0.0.1]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://localhost:PORT/",
    "http://ⓛⓄⓒⓐⓛⓗⓞⓢⓣ:PORT/",
];

/// Elsewhere where no customer has anything to look for, and what is no address of the web at all.
pub(crate) const ELSEWHERE: [&str; 32] = [
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::8.8.8.8]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "http://[2001:db8::1]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]/",
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "gopher://8.8.8.8/",
];
