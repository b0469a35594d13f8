package image

import (
	"errors"
	"strings"
)

// An Expected is a digest that an image must have, as somebody says.
type Expected struct {
	SHA256     string // in lower-case hexadecimal
	File, Disk bool   // it is that of the file, of what that unpacks to, or of one of them
	From       string // the file that says so; "": you did
}

// Expected returns the digests that the image must have. They are compared by a
// Reader that has come to its end, and by Open as far as it had to find them out.
func (im *Image) Expected() []Expected {
	var all []Expected
	for _, e := range im.expect {
		from, ok := strings.CutSuffix(e.from, " says")
		if !ok {
			from = ""
		}
		all = append(all, Expected{e.sum, e.of != ofImage, e.of != ofFile, from})
	}
	return all
}

// IsDigestError tells whether an error says that an image does not have a digest that
// it must have.
func IsDigestError(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.reason == reasonDigest
}
