// Calico's own code behind one door, for the tests beside it: calicoctl's commands, and its allocator as several hosts.
//
//	calico apply|create|replace|patch|delete|get|label|ipam ...   as calicoctl (ETCD_ENDPOINTS says where)
//	calico allocate SECONDS HOST...                               assigns and releases at random, and says what it does
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/projectcalico/calico/calicoctl/calicoctl/commands"
	"github.com/projectcalico/calico/libcalico-go/lib/apiconfig"
	"github.com/projectcalico/calico/libcalico-go/lib/clientv3"
	"github.com/projectcalico/calico/libcalico-go/lib/ipam"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

const (
	holdMost        = 20
	releasePercent  = 45
	exitFailed      = 1
	exitUsage       = 2
	commandPosition = 1
)

var verbs = map[string]func([]string) error{
	"apply": commands.Apply, "create": commands.Create, "replace": commands.Replace, "patch": commands.Patch,
	"delete": commands.Delete, "get": commands.Get, "label": commands.Label, "ipam": commands.IPAM,
}

func main() {
	logrus.SetOutput(io.Discard)
	if len(os.Args) <= commandPosition {
		os.Exit(exitUsage)
	}
	arguments := os.Args[commandPosition:]
	var err error
	if verb, known := verbs[arguments[0]]; known {
		err = verb(arguments)
	} else if arguments[0] == "allocate" && len(arguments) > 2 {
		err = allocate(arguments[1], arguments[2:])
	} else {
		os.Exit(exitUsage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

func allocate(seconds string, hosts []string) error {
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	config := apiconfig.NewCalicoAPIConfig()
	config.Spec.DatastoreType = apiconfig.EtcdV3
	config.Spec.EtcdEndpoints = os.Getenv("ETCD_ENDPOINTS")
	client, err := clientv3.New(*config)
	if err != nil {
		return err
	}
	end := time.Now().Add(time.Duration(limit) * time.Second)
	var mutex sync.Mutex
	say := func(words ...any) {
		mutex.Lock()
		defer mutex.Unlock()
		fmt.Println(append([]any{time.Now().UnixNano()}, words...)...)
	}
	var group sync.WaitGroup
	for _, host := range hosts {
		group.Add(1)
		go func() {
			defer group.Done()
			live(client.IPAM(), host, end, say)
		}()
	}
	group.Wait()
	return nil
}

func live(allocator ipam.Interface, host string, end time.Time, say func(...any)) {
	ctx := context.Background()
	var held []string
	for turn := 0; time.Now().Before(end); turn++ {
		if len(held) > holdMost || len(held) > 0 && rand.Intn(100) < releasePercent {
			at := rand.Intn(len(held))
			handle := held[at]
			held = append(held[:at], held[at+1:]...)
			say("release", handle)
			if err := allocator.ReleaseByHandle(ctx, handle); err != nil {
				say("failed", handle, err)
			}
			continue
		}
		handle := fmt.Sprintf("calico.%d-%s-%d", os.Getpid(), host, turn)
		given, _, err := allocator.AutoAssign(ctx, ipam.AutoAssignArgs{
			Num4: 1, HandleID: &handle, Hostname: host, IntendedUse: v3.IPPoolAllowedUseWorkload,
			Attrs: map[string]string{"node": host, "pod": handle, "namespace": "default"},
		})
		if err != nil || given == nil || len(given.IPs) == 0 {
			say("failed", handle, err)
			continue
		}
		say("assigned", handle, given.IPs[0].IP)
		held = append(held, handle)
	}
}
