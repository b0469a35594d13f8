package identity

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var some = []Label{{"one", "usb 1-2", "v2, (moz)\\"}, {"two", "usb 1-3", "v2\x1b[31m\nx"}}

func written(t *testing.T, format string, labels []Label) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteLabels(&b, format, labels); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLabelsAreLists(t *testing.T) {
	if got := written(t, "csv", some); got != "name,slot,revision\none,usb 1-2,\"v2, (moz)\\\"\ntwo,usb 1-3,v2?[31m?x\n" {
		t.Errorf("%q", got)
	}
	if got := written(t, "txt", some); got != "one  usb 1-2  v2, (moz)\\\ntwo  usb 1-3  v2?[31m?x\n" {
		t.Errorf("%q", got)
	}
	if err := WriteLabels(&bytes.Buffer{}, "doc", some); err == nil {
		t.Error("a doc")
	}
}

// Every object is where the table at the end says, every stream as long as it says, and each
// label is on some page.
func TestTheSheetIsAPDF(t *testing.T) {
	var labels []Label
	for i := range 50 {
		labels = append(labels, Label{fmt.Sprintf("card-%02d", i), "usb 1-2", "v(2)"})
	}
	for _, l := range [][]Label{nil, some, labels} {
		b := written(t, "pdf", l)
		start, err := strconv.Atoi(regexp.MustCompile(`startxref\n(\d+)\n%%EOF\n$`).FindStringSubmatch(b)[1])
		if err != nil || !strings.HasPrefix(b[start:], "xref\n") {
			t.Fatalf("the table is not at %d", start)
		}
		for i, m := range regexp.MustCompile(`(\d{10}) 00000 n \n`).FindAllStringSubmatch(b[start:], -1) {
			at, _ := strconv.Atoi(m[1])
			if !strings.HasPrefix(b[at:], fmt.Sprintf("%d 0 obj\n", i+1)) {
				t.Errorf("object %d is not at %d", i+1, at)
			}
		}
		for _, m := range regexp.MustCompile(`(?s)/Length (\d+) >>\nstream\n(.*?)endstream`).FindAllStringSubmatch(b, -1) {
			if n, _ := strconv.Atoi(m[1]); n != len(m[2]) {
				t.Errorf("a stream of %d bytes has %d", n, len(m[2]))
			}
		}
		if pages := strings.Count(b, "/Type /Page "); pages != max(1, (len(l)+23)/24) {
			t.Errorf("%d pages for %d labels", pages, len(l))
		}
		for _, x := range l {
			var text strings.Builder
			for _, r := range x.Name {
				fmt.Fprintf(&text, "\\%03o", r)
			}
			if !strings.Contains(b, "("+text.String()+")") {
				t.Errorf("%s is on no page", x.Name)
			}
		}
	}
}
