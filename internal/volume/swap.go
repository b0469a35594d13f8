package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"multidd/internal/block"
)

// Swap space as mkswap makes it: a page with a header, and pages whose content means
// nothing once the system that wrote them is off. (Linux, include/linux/swap.h.)

// swapArea is a swap space. Its header's page is in use.
type swapArea struct {
	fs   FileSystem
	page int64
}

func (s *swapArea) info() FileSystem { return s.fs }

func (s *swapArea) used(yield func(block.Extent) bool) error {
	e := block.Extent{Len: s.page}
	if s.fs.State != Clean {
		e.Len = s.fs.Size
	}
	if yield(e) {
		yield(block.Extent{Off: s.fs.Size})
	}
	return nil
}

// swapSign returns the size of the page at whose end a sign of swap space stands,
// and the sign; page is 0 if there is none. Pages are as large as the processor's.
func swapSign(head []byte) (page int64, sign string) {
	for page = 4 << 10; page <= int64(len(head)) && page <= 64<<10; page *= 2 {
		sign = string(bytes.TrimRight(head[page-10:page], "\x00"))
		switch sign {
		case "SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001":
			return page, sign
		}
	}
	return 0, ""
}

// openSwap opens a swap space.
func openSwap(r io.ReaderAt, size int64) (fileSystem, error) {
	head, err := bytesAt(r, 0, min(size, 64<<10))
	if err != nil {
		return nil, err
	}
	page, sign := swapSign(head)
	if page == 0 {
		return nil, errNotMine
	}
	const version, lastPage, uuid, label = 1024, 1028, 1036, 1052
	fs := FileSystem{Kind: "swap", BlockSize: int(page), Size: size}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(head[version:]) == 1<<24 {
		order = binary.BigEndian
	}
	length := (int64(order.Uint32(head[lastPage:])) + 1) * page
	switch {
	case sign == "SWAP-SPACE":
		fs.doubt(Unknown, "it is swap space of a kind that is no longer made")
	case sign != "SWAPSPACE2":
		fs.doubt(Unknown, "it holds the memory of a system that was suspended")
	case order.Uint32(head[version:]) != 1:
		fs.doubt(Unknown, fmt.Sprintf("its version %d is not known", order.Uint32(head[version:])))
	case length > size:
		fs.doubt(Unknown, "it is longer than where it lies")
	case length < 2*page:
		fs.doubt(Unknown, "its header contradicts itself")
	default:
		fs.Size = length
	}
	if sign != "SWAP-SPACE" {
		fs.Label = string(bytes.TrimRight(head[label:label+16], "\x00"))
		fs.UUID = formatUUID(head[uuid : uuid+16])
	}
	fs.Used = page
	return &swapArea{fs, page}, nil
}

// formatUUID writes a UUID of 16 bytes as everybody does; "" if there is none.
func formatUUID(b []byte) string {
	if bytes.Equal(b, make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
