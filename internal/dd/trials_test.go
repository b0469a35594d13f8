package dd

import "strings"

// trials are the lines that both programs are given.
func trials() (all []trial) {
	for _, group := range [][]trial{numbers(), operands(), lengths(), positions(), conversions(), pipes(), failures(), amounts()} {
		all = append(all, group...)
	}
	return all
}

// lines makes a trial of each line.
func lines(s string) (all []trial) {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, trial{args: line})
		}
	}
	return all
}

// numbers tries the grammar of numbers, where they count, skip, seek and size.
func numbers() (all []trial) {
	for n := range strings.FieldsSeq(`0 1 2 3c 2w 1b k 1k 1K 1kB 1KB 1KiB 1kiB 1kD 2x512 0x10 00x10 2xk kx2 3B 3BB 3Bx2 3cB 1bB bB
		1M 1MB 1MiB 1G 1GB 1T 1P 1E 7E 8E 1Z 1Y 0Z 8Ex0 0x8E 4Ex2 9223372036854775807 9223372036854775808 99999999999999999999
		99999999999999999999x0 1x9223372036854775807 -1 +1 +-1 1.5 1e3 1m 1g 1t 1i 1ki 1kc 1cc 1D B Bx2 x2 2x 2xx2 0x1B1 010 1_000`) {
		all = append(all,
			trial{args: "if=/dev/null of=out count=" + n},
			trial{args: "if=noise of=out bs=10 count=2 skip=" + n},
			trial{args: "if=short of=/dev/null seek=" + n})
		if !strings.HasPrefix(n, "0x") {
			all = append(all, trial{args: "if=short of=out count=0 obs=" + n})
		}
	}
	return append(all, lines(`
		if=short of=out bs=
		if=short of=out bs=0
		if=short of=out ibs=0
		if=short of=out obs=0
		if=short of=out bs=100E
		if=short of=out count=
		if=short of=out bs=3 bs=2
		if=short of=out bs=3 ibs=2 obs=1
		if=noise of=out count=1 count=2
		if=noise of=out count=1kB bs=100
		if=noise of=out count=1kx1 bs=100
		if=noise of=out skip=1B count=1
		if=noise of=out skip=1B skip=1 count=1`)...)
}

// operands tries words that are not understood, and those that are given again.
func operands() []trial {
	return append(lines(`
		foo
		foo=1
		if
		=
		=x
		bs
		if=
		of=
		if=short if=noise of=out
		conv=
		conv=foo
		conv=sync,foo
		conv=fo'o
		conv=sync,
		conv=Sync
		iflag=foo
		iflag=
		oflag=foo
		oflag=fullblock
		iflag=binary
		oflag=text
		status=foo
		status=none,foo
		status=none,noxfer if=short of=out
		status=none if=short of=out
		status=noxfer if=short of=out
		status=progress if=short of=out
		status=none status=noxfer if=short of=out
		conv=excl,nocreat if=short of=out
		conv=excl conv=nocreat if=short of=out
		x'y
		a\b
		-- if=short of=out
		if=short -- of=out`),
		trial{args: "\x01\xff=1"}, trial{args: "conv=\x7f\x80\x1b"}, trial{args: "bs=\t1\x02"})
}

// lengths tries all that has to do with the length of records.
func lengths() []trial {
	return lines(`
		if=empty of=out
		if=short of=out
		if=noise of=out
		if=noise
		if=noise of=out bs=1
		if=noise of=out bs=4k
		if=noise of=out bs=70000
		if=noise of=out bs=1M
		if=noise of=out bs=7
		if=noise of=out ibs=7
		if=noise of=out obs=7
		if=noise of=out ibs=7 obs=5
		if=noise of=out ibs=5 obs=7
		if=noise of=out ibs=1000 obs=64k
		if=noise of=out ibs=64k obs=1000
		if=noise of=out ibs=100 count=3
		if=noise of=out obs=100 count=3
		if=noise of=out bs=1k count=3
		if=noise of=out bs=1k count=69
		if=noise of=out bs=1k count=1000
		if=noise of=out bs=1k count=0
		if=noise of=out bs=1k count=1500 iflag=count_bytes
		if=noise of=out bs=1k count=1500B
		if=noise of=out ibs=1k obs=3 count=1500B
		if=noise of=out bs=1k count=100 iflag=count_bytes
		if=noise of=out bs=1k count=0 iflag=count_bytes
		if=noise of=out bs=1M count=3 iflag=fullblock
		if=noise of=out bs=1k iflag=fullblock,count_bytes count=70000
		if=noise of=/dev/null bs=1k
		if=/dev/zero of=out bs=1k count=5
		if=/dev/zero of=out bs=1M count=3
		if=/dev/zero count=1
		if=/dev/null of=out
		if=noise of=noise conv=notrunc
		if=noise of=noise bs=1k seek=1 conv=notrunc count=20
		if=noise of=noise bs=1k skip=1 conv=notrunc
		if=noise of=noise
		if=/proc/version of=out bs=4
		if=/proc/version of=out skip=1 bs=4
		if=/sys/kernel/mm/transparent_hugepage/enabled of=out bs=4k`)
}

// positions tries skip and seek.
func positions() []trial {
	return append(lines(`
		if=noise of=out skip=1
		if=noise of=out skip=136
		if=noise of=out skip=137
		if=noise of=out skip=1000
		if=noise of=out skip=70000 bs=1
		if=noise of=out skip=70001 bs=1
		if=noise of=out iseek=3 bs=1k
		if=noise of=out skip=3 iflag=skip_bytes bs=1k
		if=noise of=out skip=3000B bs=1k count=2
		if=noise of=out skip=1M iflag=skip_bytes
		if=noise of=out skip=9223372036854775807 iflag=skip_bytes bs=1
		if=noise of=out skip=9223372036854775807
		if=empty of=out skip=1
		if=empty of=out skip=9223372036854775807
		if=/dev/zero of=out skip=3 count=1
		if=/dev/null of=out skip=3
		if=noise of=out seek=1
		if=noise of=out oseek=3 bs=1k
		if=noise of=out seek=3 oflag=seek_bytes bs=1k
		if=noise of=out seek=3000B bs=1k
		if=noise of=out seek=200 obs=1k
		if=noise of=out seek=2 ibs=7 obs=1k count=3
		if=noise of=out seek=2 skip=3 bs=1k count=4
		if=short of=out seek=9223372036854775807
		if=short of=out seek=9223372036854775807 conv=notrunc
		if=short of=out seek=9223372036854775807 bs=1
		if=short of=out seek=9223372036854775807B
		if=short of=out seek=1T bs=1 count=0
		if=short of=/dev/null seek=10
		if=short seek=10
		if=noise of=zeros seek=10
		if=noise of=zeros seek=10 count=1
		if=noise of=zeros seek=10 count=0
		if=noise of=zeros seek=1000
		if=noise of=zeros seek=10B count=1
		if=noise of=zeros seek=10 count=1 conv=notrunc
		if=noise of=zeros seek=10B count=1 conv=notrunc
		if=noise of=zeros count=0
		if=noise of=zeros count=0 conv=notrunc
		if=noise of=zeros count=1 conv=notrunc
		if=noise of=zeros seek=1000 conv=notrunc
		of=zeros seek=10 count=0
		of=new seek=10 count=0
		of=new bs=1M seek=3`),
		trial{args: "of=out skip=1", stdin: "noise"},
		trial{args: "of=out skip=1000", stdin: "noise"},
		trial{args: "of=out skip=1 bs=100", pipe: packets(100, 100, 100)},
		trial{args: "of=out skip=2 bs=100", pipe: packets(100, 50, 100)},
		trial{args: "of=out skip=5 bs=100", pipe: packets(100, 100, 100)},
		trial{args: "of=out skip=150 iflag=skip_bytes bs=100", pipe: packets(100, 50, 100)},
		trial{args: "of=out skip=3 count=1 bs=100", pipe: packets(100, 1, 100, 100)},
		trial{args: "of=out skip=9223372036854775807 bs=100", pipe: packets(100, 1, 100, 100)},
	)
}

// conversions tries what conv= and the flags of writing do.
func conversions() (all []trial) {
	all = lines(`
		if=noise of=out conv=sync
		if=noise of=out conv=sync bs=64k
		if=noise of=out conv=sync ibs=64k
		if=noise of=out conv=sync bs=3M
		if=noise of=out conv=sync ibs=64k obs=1000
		if=noise of=out conv=sync bs=100k count=70001B
		if=empty of=out conv=sync
		if=noise of=out conv=sync,noerror bs=64k
		if=noise of=out conv=noerror bs=64k
		if=noise of=out conv=fsync
		if=noise of=out conv=fdatasync
		if=noise of=out conv=fsync,fdatasync bs=1k
		if=noise of=zeros conv=notrunc
		if=noise of=zeros conv=excl
		if=noise of=/dev/null conv=excl
		if=noise of=/dev/full conv=excl seek=3 oflag=seek_bytes
		if=noise of=out conv=excl
		if=noise of=out conv=nocreat
		if=noise of=zeros conv=nocreat
		if=holes of=out conv=sparse
		if=holes of=out conv=sparse bs=4k
		if=holes of=out conv=sparse bs=64k
		if=holes of=out conv=sparse ibs=1k obs=4k
		if=holes of=out conv=sparse bs=4k seek=3
		if=holes of=zeros conv=sparse bs=4k
		if=holes of=noise conv=sparse bs=4k
		if=holes of=noise conv=sparse,notrunc bs=4k
		if=zeros of=noise conv=sparse,notrunc bs=4k
		if=ends of=out conv=sparse bs=4k
		if=ends of=out conv=sparse bs=5000
		if=zeros of=out conv=sparse bs=4k
		if=zeros of=out conv=sparse bs=15
		if=zeros of=out conv=sparse bs=17 count=4
		if=zeros of=out conv=sparse bs=4k count=0
		if=zeros of=/dev/null conv=sparse
		if=zeros conv=sparse bs=4k
		if=noise of=out oflag=sync bs=4k
		if=noise of=out oflag=dsync bs=64k
		if=noise of=out oflag=direct bs=4k
		if=noise of=out oflag=direct bs=64k
		if=noise of=out oflag=direct ibs=4k obs=8k
		if=noise of=out oflag=direct,sync bs=16k count=3
		if=noise of=out oflag=direct bs=64k conv=sync
		if=noise of=out oflag=direct bs=64k seek=1
		if=holes of=out oflag=direct bs=4k conv=sparse
		if=noise of=out iflag=direct bs=4k
		if=noise of=out iflag=direct bs=64k
		if=noise of=out iflag=direct bs=4k skip=2 count=3
		if=noise of=out iflag=direct oflag=direct bs=64k
		if=noise of=/dev/null iflag=direct bs=1M
		if=noise of=noise oflag=direct bs=64k conv=notrunc
		if=noise iflag=direct oflag=sync bs=4k`)
	return append(all, trial{args: "iflag=direct bs=4k of=out", stdin: "noise"}, trial{args: "bs=4k oflag=direct", stdin: "noise"})
}

// pipes tries an input that gives less than was asked for.
func pipes() []trial {
	uneven := packets(100, 100, 1, 99, 50, 100)
	return []trial{
		{args: "of=out", pipe: packets(5)},
		{args: "of=out", pipe: packets()},
		{args: "", pipe: packets(512, 512, 1)},
		{args: "of=out bs=100", pipe: uneven},
		{args: "of=out ibs=100", pipe: uneven},
		{args: "of=out ibs=100 obs=30", pipe: uneven},
		{args: "of=out obs=100 ibs=4k", pipe: uneven},
		{args: "of=out bs=4k", pipe: uneven},
		{args: "of=out bs=100 count=2", pipe: uneven},
		{args: "of=out bs=100 count=4", pipe: uneven},
		{args: "of=out bs=100 count=5 status=none", pipe: uneven},
		{args: "of=out bs=100 count=5 status=noxfer", pipe: uneven},
		{args: "of=out ibs=100 count=4", pipe: uneven},
		{args: "of=out bs=100 count=250 iflag=count_bytes", pipe: packets(100, 100, 50, 50)},
		{args: "of=out bs=200 count=2", pipe: packets(1, 1, 1)},
		{args: "of=out bs=100 iflag=fullblock", pipe: packets(100, 100, 100)},
		{args: "of=out bs=200 iflag=fullblock", pipe: packets(100, 50, 50, 100, 100, 7)},
		{args: "of=out bs=200 iflag=fullblock count=2", pipe: packets(100, 50, 50, 100, 100, 7)},
		{args: "of=out bs=100 conv=sync", pipe: uneven},
		{args: "of=out ibs=100 conv=sync", pipe: uneven},
		{args: "of=out bs=100 conv=sync,noerror", pipe: uneven},
		{args: "of=out ibs=100 obs=70 conv=sync count=4", pipe: uneven},
		{args: "of=out bs=4k oflag=direct", pipe: packets(4096, 4096, 100)},
		{args: "of=out bs=4k oflag=direct", pipe: packets(4096, 100, 4096)},
		{args: "of=out bs=4k conv=sparse", pipe: append(packets(100), make([]byte, 4096), make([]byte, 7))},
		{args: "of=zeros bs=100 seek=3 conv=notrunc", pipe: uneven},
		{args: "of=out bs=4k", stdin: "noise"},
		{args: "of=out bs=4k count=3", stdin: "noise"},
		{args: "", stdin: "noise"},
		{args: "bs=64k conv=fsync", stdin: "noise"},
	}
}

// failures tries inputs and outputs that cannot be opened, read or written.
func failures() []trial {
	return append(lines(`
		if=missing of=out
		if=missing of=missing/out
		if=short of=missing/out
		if=short/x of=out
		if=short of=noise/x
		if=short of=.
		if=. of=out
		if=. of=out bs=4k count=3
		if=. of=out conv=noerror,sync count=3
		if=. of=out conv=noerror,sync count=3 bs=100 status=none
		if=. of=out conv=noerror,sync count=3 bs=100 status=noxfer
		if=/proc/self/mem of=out
		if=/proc/self/mem of=out bs=1M conv=noerror,sync count=2
		if=/proc/self/mem of=out ibs=100 obs=30 conv=noerror,sync count=2
		if=it's of=out
		if=a"b$c of=out
		if=a'b"c of=out
		if=missing/#x of=out
		if=noise of=/dev/full
		if=noise of=/dev/full bs=1k
		if=noise of=/dev/full bs=1M
		if=noise of=/dev/full ibs=100
		if=noise of=/dev/full obs=100
		if=noise of=/dev/full obs=1M
		if=noise of=/dev/full bs=64k oflag=sync
		if=noise of=/dev/full ibs=70 obs=1000
		if=noise of=/dev/full count=0
		if=noise of=/dev/full conv=sparse bs=1k
		if=holes of=/dev/full conv=sparse bs=1k
		if=noise of=/dev/full seek=3
		if=noise of=/dev/full bs=1k conv=fsync
		if=noise of=/dev/full status=none
		if=empty of=/dev/full
		if=noise of=/dev/full bs=1E
		if=noise of=out iflag=direct bs=100
		if=noise of=out oflag=direct bs=100`),
		trial{args: "if=\x01x'y of=out"}, trial{args: "if=\x01\x02a\nb of=out"},
		trial{args: "bs=4k", pipe: packets(4096)},
		trial{args: "if=short seek=1", stdin: "noise"})
}

// amounts tries how many bytes are said to have been copied.
func amounts() (all []trial) {
	for n := range strings.FieldsSeq(`0 1 2 999 1000 1001 1023 1024 1025 1049 1050 1051 1126 1127 9949 9950 9951 9999 10000 10188 10189 10239 10240
		10499 10500 10751 10752 99999 999499 999500 999999 1000000 1048575 1048576 1049999 1050000 9950000 10433331 10485759 99999999 104857600 999999999`) {
		all = append(all, trial{args: "if=/dev/zero of=/dev/null bs=8M iflag=count_bytes count=" + n})
	}
	return all
}
