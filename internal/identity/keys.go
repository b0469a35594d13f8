package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
)

// keyKinds are the kinds of ssh host keys that can be made.
var keyKinds = []string{"ed25519", "rsa"}

const rsaBits = 3072 // as ssh-keygen makes them

// hostKey makes a key pair as ssh-keygen would write it: the private half as OpenSSH keeps it
// (PROTOCOL.key of its sources), unencrypted, and the public half as one line.
func hostKey(kind, comment string, random io.Reader) (private, public []byte, err error) {
	var blob, secret wire
	switch kind {
	case "ed25519":
		seed := make([]byte, ed25519.SeedSize)
		if _, err := io.ReadFull(random, seed); err != nil {
			return nil, nil, err
		}
		key := ed25519.NewKeyFromSeed(seed)
		pub := key.Public().(ed25519.PublicKey)
		blob.strings([]byte("ssh-ed25519"), pub)
		secret.strings([]byte("ssh-ed25519"), pub, key)
	case "rsa":
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, nil, err
		}
		e := big.NewInt(int64(key.E))
		blob.strings([]byte("ssh-rsa"), number(e), number(key.N))
		secret.strings([]byte("ssh-rsa"), number(key.N), number(e), number(key.D), number(key.Precomputed.Qinv), number(key.Primes[0]), number(key.Primes[1]))
	default:
		return nil, nil, fmt.Errorf("there is no kind of key called %q", kind)
	}
	secret.strings([]byte(comment))
	var check [4]byte
	if _, err := io.ReadFull(random, check[:]); err != nil {
		return nil, nil, err
	}
	inner := bytes.Join([][]byte{check[:], check[:], secret}, nil)
	for i := byte(1); len(inner)%8 != 0; i++ {
		inner = append(inner, i)
	}
	var w wire
	w.strings([]byte("none"), []byte("none"), nil) // no cipher, no derivation of its key
	w = binary.BigEndian.AppendUint32(w, 1)
	w.strings(blob, inner)
	private = pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: append([]byte("openssh-key-v1\x00"), w...)})
	public = fmt.Appendf(nil, "ssh-%s %s %s\n", kind, base64.StdEncoding.EncodeToString(blob), comment)
	return private, public, nil
}

// wire is what ssh packs its values into: strings after their length, RFC 4251.
type wire []byte

func (w *wire) strings(all ...[]byte) {
	for _, s := range all {
		*w = binary.BigEndian.AppendUint32(*w, uint32(len(s)))
		*w = append(*w, s...)
	}
}

// number returns a positive number as ssh packs it: with a zero in front of a highest bit.
func number(n *big.Int) []byte {
	b := n.Bytes()
	if len(b) > 0 && b[0]&0x80 != 0 {
		return append([]byte{0}, b...)
	}
	return b
}
